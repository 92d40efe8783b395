"""Templates of task files and of tokenizers: they may come from anybody, and get neither the machine nor its time.

lm-eval renders a task's templates without a sandbox, where an expression reaches Python's own objects and with them
any command; here the same templates are rendered in Jinja's sandbox, to the same texts. Chat templates are sandboxed by
transformers; what no sandbox bounds is how long they take and what they hold, which a trial in a process of its own
finds out.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import lm_eval.utils
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment

from tasks.errors import TaskError

SECONDS = 60  # that one document's templates may take; a million letters take less than one
MOST = 10_000_000  # letters or items that an operation may make
LARGEST = 10**6  # digits, in bits, of a power
REPEATING = re.compile(r"\bfor\b.*\bfor\b|\bmacro\b|\brecursive\b", re.DOTALL)
TRIAL_SECONDS, TRIAL_BYTES = 5, 1 << 30
_TRIAL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
resource.setrlimit(resource.RLIMIT_AS, ({bytes}, {bytes}))

class Generation(Extension):
    tags = {{"generation"}}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)

text = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
try:
    how = {{"trim_blocks": True, "lstrip_blocks": True, "extensions": [Generation, loopcontrols]}}
    environment = ImmutableSandboxedEnvironment(**how)
    environment.filters["tojson"] = lambda value, **_: str(value)
    template = environment.from_string(text)
    for roles in (("user",), ("system", "user", "assistant", "user")):
        template.render(messages=[{{"role": role, "content": "Hello."}} for role in roles], add_generation_prompt=True,
            bos_token="<s>", eos_token="</s>", raise_exception=str, strftime_now=str, tools=None, documents=None)
except MemoryError:
    sys.exit(3)
except Exception:
    pass
"""


class Sandbox(SandboxedEnvironment):
    """As lm-eval's own environment, but for access to what is private, and for products of any size."""

    intercepted_binops = frozenset({"*", "**"})

    def from_string(self, source: Any, *further: Any, **named: Any) -> Any:
        """A template that cannot run for ever, where it holds what could."""
        template: Any = super().from_string(source, *further, **named)
        if isinstance(source, str) and REPEATING.search(source):
            template.render = bounded(template.render)
        return template

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Raises SecurityError where the result would be too large to be meant."""
        sizes = [len(each) for each in (left, right) if isinstance(each, (str, bytes, list, tuple))]
        counts = [each for each in (left, right) if isinstance(each, int)]
        if operator == "*" and sizes and counts and sizes[0] * counts[0] > MOST:
            raise SecurityError(f"a text or list is repeated {counts[0]} times")
        if operator == "**" and len(counts) == 2 and abs(left).bit_length() * max(right, 0) > LARGEST:
            raise SecurityError(f"a power has more than {LARGEST} bits")
        return super().call_binop(context, operator, left, right)


def use_sandbox() -> None:
    """Render lm-eval's templates in the sandbox from now on, in this process; idempotent."""
    theirs = lm_eval.utils.env
    if isinstance(theirs, Sandbox):
        return
    ours = Sandbox(loader=theirs.loader, undefined=theirs.undefined, keep_trailing_newline=theirs.keep_trailing_newline)
    ours.filters.update(theirs.filters)
    lm_eval.utils.env = ours


class TookTooLong(Exception):
    """A template did not come to its end."""

    def __str__(self) -> str:
        return f"its template takes more than {SECONDS} seconds"


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Raises TookTooLong within a body of Python code that takes longer, whatever thread it runs in."""
    thread, lock = ctypes.c_ulong(threading.get_ident()), threading.Lock()
    over = fired = False

    def fire() -> None:
        nonlocal fired
        with lock:
            if not over:
                fired = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TookTooLong))

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    try:
        timer.start()
        yield
    finally:
        with lock:
            over = True
            if fired:  # it must not be raised elsewhere
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)
        timer.cancel()


def bounded(render: Callable[..., str]) -> Callable[..., str]:
    """`render` within SECONDS."""

    def call(*given: Any, **named: Any) -> str:
        with in_time(SECONDS):
            return render(*given, **named)

    return call


@lru_cache(maxsize=8)
def try_chat_template(template: str) -> None:
    """Raise TaskError for a chat template that takes unbounded time or memory for two short conversations.

    It is compiled and rendered in a process of its own with limits, as a single operation in C can take all of either.
    Other mistakes are left to who renders it in earnest.
    """
    program = _TRIAL.format(seconds=TRIAL_SECONDS, bytes=TRIAL_BYTES)
    text = template.encode("utf-8", "surrogatepass")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            input=text,
            capture_output=True,
            timeout=12 * TRIAL_SECONDS,  # of a machine that is busy with others
            check=False,
        )
    except subprocess.TimeoutExpired:
        code = 3
    else:
        code = done.returncode
    if code == 3 or code < 0:
        raise TaskError(
            f"apply_chat_template: the tokenizer's chat template takes more than {TRIAL_SECONDS} seconds or "
            f"{TRIAL_BYTES >> 20} MiB for a short conversation ({template[:40]!r}...); take the model's own tokenizer"
        )
