"""From a task's documents to lm-eval's requests: exactly those of `lm_eval --samples`, built once.

lm-eval draws few-shot examples from one random stream per task, seeded afresh for each run, so a document's
prompt depends on which documents are asked before it. Each set is therefore built as a run of its own: its
documents in ascending order after `set_fewshot_seed(1234)`, which is what stock lm-eval does with the same
ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
import lm_eval.utils
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.defaults import DEFAULT_OTHER_SEED

from tasks.documents import Document, canonical
from tasks.encoding import Encoded, Encoder
from tasks.errors import TaskError, is_panic
from tasks.gen_settings import check_settings
from tasks.gold import Gold, find_gold
from tasks.judging import judging
from tasks.sandbox import bounded, try_chat_template
from tasks.spec import PromptSettings


@dataclass(frozen=True)
class DocumentRequests:
    """One document with what the model is asked about it, in the order of lm-eval's `idx`.

    `encoded`: token ids, one pair per instance. `gold`: its right answers, as far as it has any. `digest`: sha256 in
    hex over what is asked and how the answers are judged, whatever the set and the folder it comes from.
    """

    id: int
    document: Document
    instances: tuple[Instance, ...]
    encoded: tuple[Encoded, ...]
    gold: tuple[Gold, ...]
    digest: str


def build_requests(
    task: ConfigurableTask,
    documents: Sequence[Document],
    ids: Sequence[int],
    *,
    prompt: PromptSettings,
    tokenizer: Any,
) -> tuple[DocumentRequests, ...]:
    """The requests of the documents with these ids (ascending), as stock lm-eval makes them.

    Raises TaskError when a chat template is asked for and the tokenizer has none, when the task's own templates fail on
    a document, when a document cannot be judged (no choices, an empty one, a right answer that is none of them), for a
    prompt or an answer without tokens, and for generation settings that cannot be.
    """
    if task.OUTPUT_TYPE == "generate_until":
        check_settings(task.config.generation_kwargs or {}, prompt.gen_kwargs, str(task.config.task))
    template = chat_template(tokenizer) if prompt.apply_chat_template else None
    encoder, judged = Encoder(tokenizer), judging(task)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    built = []
    with _templates_compiled_once():
        for identity in ids:
            document = documents[identity]
            with _told(task, identity):
                instances = _instances(task, document, identity, prompt=prompt, template=template)
                encoded = tuple(map(encoder.encode, instances))
                _check_tokens(instances, encoded)
                gold = find_gold(task, document, instances, chat=prompt.apply_chat_template, encoder=encoder)
            digest = _digest(document, instances, gold, judged)
            built.append(DocumentRequests(identity, document, instances, encoded, gold, digest))
    return tuple(built)


def _instances(
    task: ConfigurableTask,
    document: Document,
    identity: int,
    *,
    prompt: PromptSettings,
    template: Callable[..., str] | None,
) -> tuple[Instance, ...]:
    """One document's requests: the body of lm-eval's `build_all_requests`."""
    context = task.fewshot_context(
        document,
        num_fewshot=task.config.num_fewshot or 0,
        system_instruction=prompt.system_instruction,
        apply_chat_template=prompt.apply_chat_template,
        fewshot_as_multiturn=prompt.fewshot_as_multiturn,
        chat_template=template,
        gen_prefix=task.doc_to_prefix(document),
    )
    made = task.construct_requests(
        doc=document,
        ctx=context,
        metadata=(task.config.task, identity, task.config.repeats),
        apply_chat_template=prompt.apply_chat_template,
        chat_template=template,
    )
    return tuple(sorted(made if isinstance(made, list) else [made], key=lambda each: each.idx))


def _check_tokens(instances: Sequence[Instance], encoded: Sequence[Encoded]) -> None:
    """Raises TaskError for a request that no model could be asked."""
    for instance, (given, asked) in zip(instances, encoded, strict=True):
        kind = instance.request_type
        if None in given:
            raise TaskError(
                "its prompt is empty, and the tokenizer has no token that begins or ends a text to ask after instead; "
                "see the task's doc_to_text, or set the tokenizer's bos_token"
            )
        if not given and kind != "loglikelihood_rolling":
            raise TaskError(f"its prompt {_short(instance.args[0])} has no tokens; see the task's doc_to_text")
        if not asked and kind == "loglikelihood":
            raise TaskError(f"its answer {_short(instance.args[1])} has no tokens; see the task's doc_to_target")


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:37]!r}..."


@contextmanager
def _told(task: ConfigurableTask, identity: int) -> Iterator[None]:
    """Errors as TaskError, with the document's number."""
    where = f"task {task.config.task!r}: document {identity}"
    try:
        yield
    except TaskError as error:
        raise TaskError(f"{where}: {error}") from None
    except BaseException as error:  # templates and functions of the task's file: anything can come out
        if is_panic(error):
            raise TaskError(
                f"{where}: the tokenizer cannot encode it ({_cause(error)}); take the model's own tokenizer.json"
            ) from None
        if not isinstance(error, Exception):
            raise
        raise TaskError(
            f"{where} cannot be put as a prompt "
            f"({type(error).__name__}: {_cause(error)}); see the task's doc_to_text, doc_to_target, doc_to_choice"
        ) from error


def _cause(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _digest(document: Document, instances: Sequence[Instance], gold: Sequence[Gold], judged: str) -> str:
    asked = [(instance.request_type, instance.args, instance.repeats) for instance in instances]
    right = [(each.context, each.continuation) for each in gold]
    text = canonical({"asked": asked, "document": document, "gold": right, "judged": judged})
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def _templates_compiled_once() -> Iterator[None]:
    """lm-eval compiles a template anew for every document, which is nearly all the time that prompts take."""
    environment = lm_eval.utils.env
    environment.from_string = lru_cache(maxsize=256)(environment.from_string)
    try:
        yield
    finally:
        del environment.from_string  # the class's own method shows again


def chat_template(tokenizer: Any) -> Callable[..., str]:
    """lm-eval's `HFLM.apply_chat_template` for a tokenizer without a model.

    A template that refuses the system's role is given the messages without it, as lm-eval does.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TaskError("apply_chat_template: the tokenizer has no chat template; set it to false")
    own = tokenizer.chat_template
    for text in own.values() if isinstance(own, dict) else (own,):
        try_chat_template(str(text))

    def render(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        keywords = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return str(tokenizer.apply_chat_template(messages, **keywords))
        except jinja2.exceptions.TemplateError:
            without = [message for message in messages if message["role"] != "system"]
            return str(tokenizer.apply_chat_template(without, **keywords))

    return bounded(render)


def remember_templates(task: ConfigurableTask, documents: Sequence[Document]) -> None:
    """Make the task render each document's choices, target and text once.

    `process_results` renders them again for every candidate, and Jinja is most of what scoring costs
    outside of the model. Keys are the identities of `documents`, which must live as long as the task does.
    """
    held = {id(document) for document in documents}

    def remembered(method: Callable[..., Any]) -> Callable[..., Any]:
        seen: dict[int, Any] = {}

        def call(document: Mapping[str, Any], override: Any = None) -> Any:
            if override is not None or id(document) not in held:
                return method(document, override)
            if id(document) not in seen:
                seen[id(document)] = method(document)
            return seen[id(document)]

        return call

    for name in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        setattr(task, name, remembered(getattr(task, name)))
