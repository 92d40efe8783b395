"""Finding tasks by name, their data from anywhere, and what is said when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import tasks.load
from tasks.catalog import Catalog
from tasks.errors import TaskError, UnknownMetric, UnknownTask
from tasks.load import TaskLibrary
from tasks.metric import find_metric
from tasks.spec import Sizes, TaskSpec, check_search


@pytest.fixture(autouse=True)
def _few_builtin_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """lm-eval's own tasks take a second to read through; two stand for them."""
    folder = tmp_path_factory.mktemp("builtin")
    for name in ("gsm8k", "anagrams1"):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, "dataset_path": "x/y"}))
    monkeypatch.setattr(tasks.load, "builtin", lambda: Catalog(folder))


def test_data_is_found_from_any_working_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(TaskLibrary([folder]).load("pick").eval_docs) == 80


def test_data_named_from_a_folder_above(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = folder / "inner" / "deep"
    below.mkdir(parents=True)
    config = yaml.safe_load((folder / "pick.yaml").read_text())
    config |= {"task": "deep_pick", "dataset_kwargs": {"data_files": {"test": f"{folder.name}/pick.jsonl"}}}
    (below / "deep.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(below)
    assert len(TaskLibrary([below]).load("deep_pick").eval_docs) == 80


def test_the_working_folder_comes_first(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    lines = (folder / "pick.jsonl").read_text().splitlines(keepends=True)
    (here / "pick.jsonl").write_text("".join(lines[:5]))
    monkeypatch.chdir(here)
    assert len(TaskLibrary([folder]).load("pick").eval_docs) == 5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pik", r"task 'pik': no such task; did you mean 'pick'"),
        ("anagrams", r"did you mean 'anagrams1'\?"),
        ("zzzz", r"name a task of the include folders .*in the include folders: pick, "),
    ],
)
def test_unknown_names(folder: Path, name: str, said: str) -> None:
    with pytest.raises(UnknownTask, match=said):
        TaskLibrary([folder]).load(name)


def test_groups_and_tags_stand_for_their_tasks(folder: Path) -> None:
    inner = {"group": "inner", "task": ["write"]}
    outer = {"group": "outer", "task": ["pick", "inner", {"task": "pick_shots", "num_fewshot": 1}]}
    for group in (inner, outer):
        (folder / f"the_{group['group']}.yaml").write_text(yaml.safe_dump(group))
    for number in range(2):
        tagged = yaml.safe_load((folder / "pick.yaml").read_text()) | {"task": f"t{number}", "tag": ["x", "letters"]}
        (folder / f"t{number}.yaml").write_text(yaml.safe_dump(tagged))
    library = TaskLibrary([folder])
    loaded = library.load_all("outer")
    assert [(task.config.task, task.config.num_fewshot) for task in loaded.tasks] == [
        ("pick", None),
        ("write", None),
        ("pick_shots", 1),
    ]
    assert [task.config.task for task in library.load_all("letters").tasks] == ["t0", "t1"]
    with pytest.raises(TaskError, match="'letters': is a group or a tag, not a task"):
        library.load("letters")


def test_faults_of_groups(folder: Path) -> None:
    (folder / "a.yaml").write_text(yaml.safe_dump({"group": "a", "task": ["pick", "pikc"]}))
    (folder / "b.yaml").write_text(yaml.safe_dump({"group": "b", "task": []}))
    with pytest.raises(UnknownTask, match="task 'pikc': no such task; did you mean 'pick'"):
        TaskLibrary([folder]).load_all("a")
    with pytest.raises(TaskError, match="task 'b': the group has no tasks"):
        TaskLibrary([folder]).load_all("b")


def test_a_file_that_cannot_be_read_is_named_where_a_task_is_missing(folder: Path) -> None:
    (folder / "a_list.yaml").write_text("[1, 2]")  # no task, and no fault
    with pytest.raises(UnknownTask) as sound:
        TaskLibrary([folder]).load("nix")
    assert ".yaml" not in str(sound.value)
    (folder / "broken.yaml").write_text("task: x\noutput_type: [")
    with pytest.raises(UnknownTask, match=r"task 'nix': no such task; .*broken\.yaml: is not valid YAML"):
        TaskLibrary([folder]).load("nix")
    assert TaskLibrary([folder]).load("pick").config.task == "pick"


def test_missing_data_and_missing_folder(folder: Path) -> None:
    (folder / "pick.jsonl").unlink()
    with pytest.raises(TaskError, match=r"task 'pick': pick.jsonl: there is no such data file"):
        TaskLibrary([folder]).load("pick")
    with pytest.raises(TaskError, match=r"include: '.*nowhere' is not a folder"):
        TaskLibrary([folder / "nowhere"])


FUNCTIONS = "def texts(document):\n    return document['nothing']\n"
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"doc_to_txt": "x"}, r"its file has an unknown key 'doc_to_txt'; did you mean 'doc_to_text'"),
    "kind": ({"output_type": "multiple"}, r"output_type: there is no 'multiple'.*give one of loglikelihood, multiple_"),
    "no split": ({"test_split": None}, "no split is named; give its file a test_split"),
    "other split": ({"test_split": "dev"}, "test_split: its data has no split 'dev'; give one of test$"),
    "no target": ({"doc_to_target": None}, "has no doc_to_target; give its file one"),
    "field": (
        {"doc_to_text": "{{questoin}}"},
        "doc_to_text: 'questoin' is undefined; a document's fields are question, ",
    ),
    "template": ({"doc_to_target": "{{answer"}, "doc_to_target: is no template .*mend '{{answer'"),
    "function": (
        {"doc_to_text": "FUNCTION"},
        "doc_to_text: !function texts in code.py, line 2, raises KeyError",
    ),
    "metric": (
        {"metric_list": [{"metric": "exact_macth"}]},
        "there is no metric 'exact_macth'; did you mean 'exact_match",
    ),
    "aggregation": (
        {"metric_list": [{"metric": "exact_match", "aggregation": "maen"}]},
        "exact_match: there is no aggregation 'maen'; did you mean 'mean'",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_task_files(folder: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    changed, said = FAULTS[name]
    (folder / "code.py").write_text(FUNCTIONS)
    settings = yaml.safe_load((folder / "write.yaml").read_text()) | changed
    text = yaml.safe_dump(settings).replace("FUNCTION", "!function code.texts")
    (folder / "write.yaml").write_text(text)
    with pytest.raises(TaskError, match=f"^task 'write': .*{said}") as raised:
        TaskLibrary([folder]).load("write")
    assert "data is there" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "write.jsonl: the data file is empty; put the documents there"),
        ('{"a": 1}\n{"a": \n', "write.jsonl: line 2, column 7 is no JSON .Expecting value.; mend it"),
        ("17\n", "write.jsonl: line 1 is no JSON object but '17'; write one object a line"),
    ],
)
def test_data_files_that_cannot_be_read(folder: Path, content: str, said: str) -> None:
    (folder / "write.jsonl").write_text(content)
    with pytest.raises(TaskError, match=said):
        TaskLibrary([folder]).load("write")


@pytest.mark.parametrize("keywords", ["{}", "{data_filse: {test: pick.jsonl}}", "{data_files: null}", "[]"])
def test_a_task_that_names_no_data_does_not_take_the_working_folder(folder: Path, keywords: str) -> None:
    (folder / "none.yaml").write_text(f"task: none_named\ndataset_path: json\ndataset_kwargs: {keywords}\n")
    with pytest.raises(
        TaskError, match=r"task 'none_named': dataset_path 'json': no data is named; give dataset_kwargs"
    ):
        TaskLibrary([folder]).load("none_named")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("ac", r"has no metric 'ac'; did you mean 'acc'"),
        ("acc,strict", r"has no filter 'strict'.*\(its filters: none\)"),
        ("mcc", r"'mcc' is neither a mean .* use one that is \(acc, acc_norm\)"),
    ],
)
def test_metrics_that_cannot_be_used(folder: Path, asked: str, said: str) -> None:
    with pytest.raises(UnknownMetric, match=said):
        find_metric(TaskLibrary([folder]).load("pick"), "pick", asked=asked)


def test_a_metric_without_a_filter_takes_none_or_the_first(folder: Path) -> None:
    library = TaskLibrary([folder])
    assert str(find_metric(library.load("pick"), "pick", asked="acc")) == "acc,none"
    found: Any = find_metric(library.load("write"), "write", asked="exact_match")
    assert str(found) == "exact_match,first-letter"
    assert found.higher_is_better


def test_all_faults_of_a_specification_at_once() -> None:
    specs = [TaskSpec("a", "acc", weight=-1.0), TaskSpec("a", "acc", num_fewshot=-2)]
    with pytest.raises(TaskError) as raised:
        check_search(specs, Sizes(1, -1, 1))
    assert [line.split(";")[0] for line in str(raised.value).splitlines()] == [
        "task 'a': named 2 times",
        "task 'a': weight is -1.0",
        "task 'a': num_fewshot is -2",
        "tasks: all weights are 0",
        "documents.selection: -1",
    ]
