"""What templates of others can do: nothing but text, in bounded time and memory."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import lm_eval.utils
import pytest
from jinja2.exceptions import SecurityError, UndefinedError
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _compile_jinja_template

from tasks import sandbox
from tasks.errors import TaskError
from tasks.load import TaskLibrary
from tasks.prompts import build_requests, chat_template
from tasks.sandbox import TookTooLong, bounded, in_time, try_chat_template, use_sandbox
from tasks.spec import PromptSettings

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch RAN') }}",
    "{{ lipsum.__globals__['os'].popen('touch RAN').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch RAN') }}",
    "{{ ''['__cla' ~ 'ss__'] }}",
    "{{ (''|attr('__class__')).__mro__ }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ joiner.__init__.__globals__.os.system('touch RAN') }}",
]
ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10 ** 11 }}",
    "{{ 'a' | center(100000000000) }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% set x = namespace(y=messages) %}{% for i in range(99) %}{% set x.y = x.y + x.y %}{% endfor %}",
]


def rendered(folder: Path) -> None:
    """Raises TaskError, at once or for what came out as nothing."""
    task = TaskLibrary([folder]).load("t")
    assert task.doc_to_text(task.eval_docs[0]) in ("", "None")
    raise TaskError("undefined")


@pytest.mark.parametrize("template", ESCAPES)
def test_a_tasks_template_reaches_no_python(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"q": "1", "a": "2"}\n')
    (tmp_path / "t.yaml").write_text(
        "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: t.jsonl}}\ntest_split: test\n"
        f"output_type: generate_until\ndoc_to_text: {json.dumps(template)}\ndoc_to_target: a\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    with pytest.raises(TaskError, match=r"unsafe|undefined|has no"):
        rendered(tmp_path)
    assert not (tmp_path / "RAN").exists()


def test_the_same_texts_come_out() -> None:
    use_sandbox()
    loop = "{% for c in choices %}{{ loop.index }}. {{ c|regex_replace('a', 'b') }}\n{% endfor %}"
    template = "{{q|trim}}\n" + loop + "{{ 'x' * 3 }}{{ 2 ** 5 }}\n"
    document = {"q": " what ", "choices": ["a", "c"]}
    assert lm_eval.utils.apply_template(template, document) == "what\n1. b\n2. c\nxxx32\n"
    assert lm_eval.utils.apply_template("{% set _ = choices.append('d') %}{{ choices|length }}", document) == "3"


def test_products_are_bounded() -> None:
    use_sandbox()
    for template in ("{{ q * 10 ** 9 }}", "{{ 10 ** 9 * q }}", "{{ 9 ** (9 ** 9) }}", "{{ choices * n }}"):
        with pytest.raises(SecurityError):
            lm_eval.utils.apply_template(template, {"q": "abc", "choices": [1], "n": 10**10})


@pytest.mark.parametrize("template", ESCAPES)
def test_transformers_renders_chat_templates_in_a_sandbox(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with suppress(SecurityError, UndefinedError):
        assert _compile_jinja_template(template).render(messages=[]) in ("", "None")
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("template", ENDLESS)
def test_endless_chat_templates_are_refused(template: str) -> None:
    start = time.monotonic()
    with pytest.raises(TaskError, match=r"apply_chat_template: .* takes more than"):
        chat_template(SimpleNamespace(chat_template=template))
    assert time.monotonic() - start < 60


def test_chat_templates_that_end_are_tried_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    for template in ("{% for m in messages %}{{ m.content }}{% endfor %}", "{{ no.such }}", "{% if", "{{ 'é' }}\ud800"):
        try_chat_template(template)
    assert capfd.readouterr() == ("", "")


@bounded
def for_ever() -> str:
    while True:
        pass


def test_what_takes_too_long_is_ended_and_nothing_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.1)
    with pytest.raises(TookTooLong):
        for_ever()
    for _ in range(200):
        with suppress(TookTooLong), in_time(0.001):
            pass
    time.sleep(0.1)


def test_a_tokenizer_that_backtracks_for_ever_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    own.pre_tokenizer = pre_tokenizers.Split(Regex("(a|aa)+$x"), "isolated")
    (tmp_path / "t.jsonl").write_text(json.dumps({"q": "a" * 1000 + "c", "a": "b"}) + "\n")
    (tmp_path / "t.yaml").write_text(
        "task: t\ndataset_path: json\ndataset_kwargs: {data_files: {test: t.jsonl}}\ntest_split: test\n"
        "doc_to_text: q\ndoc_to_target: a\nmetric_list: [{metric: exact_match}]\n"
    )
    task = TaskLibrary([tmp_path]).load("t")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, eos_token="b", bos_token="b")
    with pytest.raises(TaskError, match=r"task 't': document 0: the tokenizer cannot encode it \(.*retry-limit"):
        build_requests(task, list(task.eval_docs), [0], prompt=PromptSettings(), tokenizer=tokenizer)
    assert "retry-limit" in capfd.readouterr().err  # Rust says so by itself
