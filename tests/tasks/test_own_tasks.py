"""Tasks of the user's own, with what lm-eval lets a task file do: each is asked as stock lm-eval asks it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from tasks.errors import TaskError
from tasks.judge import Judge
from tasks.prepared import Prepared, prepare, prepare_all
from tasks.spec import PromptSettings, Sizes, TaskSpec

CODE = """
def shout(documents):
    return documents.map(lambda document: {**document, "q": document["q"].upper()})

def judge(document, results):
    (answer,) = results
    return {"length": len(answer), "first": float(answer[:1] == document["a"][:1])}

def examples():
    return [{"q": "one", "a": "1"}, {"q": "two", "a": "2"}, {"q": "three", "a": "3"}]

def prompt(document):
    return "say " + document["q"]
"""
HEAD = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: own.jsonl, train: shots.jsonl}}
test_split: test
doc_to_text: "{{q}}:"
doc_to_target: "{{a}}"
"""
EXACT = "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
ACC = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
TASKS = {
    "process_docs": (EXACT + "process_docs: !function code.shout\n", "exact_match"),
    "process_results": (
        "process_results: !function code.judge\nmetric_list:\n"
        "  - {metric: length, aggregation: mean, higher_is_better: false}\n"
        "  - {metric: first, aggregation: mean, higher_is_better: true}\n",
        "first",
    ),
    "examples in a list": (
        EXACT + "num_fewshot: 2\nfewshot_config: {sampler: first_n, samples: [{q: u, a: v}, {q: w, a: x}]}\n",
        "exact_match",
    ),
    "examples by a function": (
        EXACT + "num_fewshot: 2\nfewshot_config:\n  samples: !function code.examples\n",
        "exact_match",
    ),
    "first_n": (
        EXACT + "num_fewshot: 2\ntraining_split: train\nfewshot_split: train\nfewshot_config: {sampler: first_n}\n",
        "exact_match",
    ),
    "drawn": (EXACT + "num_fewshot: 2\ntraining_split: train\nfewshot_split: train\n", "exact_match"),
    "description": (EXACT + 'description: "Answer {{q}}.\\n\\n"\ngen_prefix: "So"\n', "exact_match"),
    "a function for the prompt": (EXACT + "doc_to_text: !function code.prompt\n", "exact_match"),
    "multiple_choice": (ACC + "output_type: multiple_choice\ndoc_to_choice: [x, y]\ndoc_to_target: 1\n", "acc"),
    "loglikelihood": (
        "output_type: loglikelihood\nmetric_list:\n"
        "  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}\n"
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n",
        "perplexity",
    ),
    "loglikelihood_rolling": (
        "output_type: loglikelihood_rolling\nmetric_list:\n"
        "  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}\n"
        "  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}\n",
        "bits_per_byte",
    ),
}


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for name, count in (("own", 12), ("shots", 5)):
        lines = [json.dumps({"q": f"{name} {number}", "a": f"a{number}"}) for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


def write(folder: Path, name: str) -> str:
    """The task file; returns its metric."""
    text, metric = TASKS[name]
    head = [line for line in HEAD.splitlines(True) if f"\n{line.partition(':')[0]}:" not in "\n" + text]
    (folder / "own.yaml").write_text("".join(head).lstrip() + text)
    return metric


def asked(prepared: Prepared) -> list[Any]:
    documents = prepared.requests("all")["own"]
    return [(one.id, one.document, each.request_type, each.args) for one in documents for each in one.instances]


@pytest.mark.parametrize("name", TASKS)
def test_it_is_asked_as_stock_asks_it(own: Path, tokenizer: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(own, name)
    prompt = PromptSettings()
    prepared = prepare_all([TaskSpec("own")], include=[own], limit=9, tokenizer=tokenizer, prompt=prompt)
    monkeypatch.chdir(own)  # stock finds the data only from here
    stock = TaskManager(include_path=str(own), include_defaults=False).load(["own"])["tasks"]["own"]
    stock.set_fewshot_seed(1234)
    stock.build_all_requests(limit=9)
    assert asked(prepared) == [(each.doc_id, each.doc, each.request_type, each.args) for each in stock.instances]


@pytest.mark.parametrize("name", TASKS)
def test_it_can_be_searched_on(own: Path, tokenizer: Any, name: str) -> None:
    metric = write(own, name)
    prepared = prepare(
        [TaskSpec("own", metric)], include=[own], sizes=Sizes(4, 3, 3), seed=0, tokenizer=tokenizer,
        prompt=PromptSettings(), allow_benchmarks=False,
    )  # fmt: skip
    assert [goal.measure for goal in prepared.objective_goals] == [f"{metric},none"]
    assert [len(prepared.requests(which)["own"]) for which in ("search", "selection", "report")] == [4, 3, 3]


def test_a_judge_of_its_own_gives_the_measures(own: Path, tokenizer: Any) -> None:
    write(own, "process_results")
    prompt = PromptSettings()
    prepared = prepare_all([TaskSpec("own")], include=[own], limit=3, tokenizer=tokenizer, prompt=prompt)
    documents = prepared.requests("all")["own"]
    for one, answer in zip(documents, ("abc", "x", "a"), strict=True):
        one.instances[0].resps.append(answer)
    measures = Judge(prepared.tasks["own"]).measures(documents)
    assert {name: dict(values) for name, values in measures.items()} == {
        "length,none": {0: 3, 1: 1, 2: 1},
        "first,none": {0: 1, 1: 0, 2: 1},
    }


def test_code_beside_a_judge_counts_as_the_judge(own: Path, tokenizer: Any) -> None:
    write(own, "process_results")

    def digests() -> list[str]:
        prompt = PromptSettings()
        prepared = prepare_all([TaskSpec("own")], include=[own], limit=3, tokenizer=tokenizer, prompt=prompt)
        return [each.digest for each in prepared.requests("all")["own"]]

    alone = digests()
    (own / "marks.py").write_text("HALF = 0.5\n")  # a module that the judge may import
    with_marks = digests()
    (own / "marks.py").write_text("HALF = 0.25\n")
    with_others = digests()
    assert all(len(set(each)) == 3 for each in zip(alone, with_marks, with_others, strict=True))
    (own / "marks.py").rename(own / "points.py")
    assert digests() == with_others


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"q": " ", "a": "x"}, "its prompt ' ' has no tokens; see the task's doc_to_text"),
        ({"q": "why", "a": ""}, "its answer '' has no tokens; see the task's doc_to_target"),
    ],
)
def test_a_likelihood_of_nothing(tmp_path: Path, tokenizer: Any, document: dict[str, str], said: str) -> None:
    lines = [json.dumps(each) for each in ({"q": "", "a": "x"}, document)]  # an empty context is lm-eval's own
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\ndataset_kwargs: {data_files: {test: own.jsonl}}\ntest_split: test\n"
        'output_type: loglikelihood\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\ntarget_delimiter: ""\n' + ACC
    )
    with pytest.raises(TaskError) as caught:
        prepare_all([TaskSpec("own")], include=[tmp_path], limit=None, tokenizer=tokenizer, prompt=PromptSettings())
    assert str(caught.value) == f"task 'own': document 1: {said}"
