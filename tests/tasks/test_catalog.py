"""Names are found without an index of everything, and mean what they mean in lm-eval's."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from tasks.catalog import Catalog, builtin
from tasks.errors import TaskError

FILES = {
    "plain.yaml": "task: plain\n",
    "other_name.yaml": "# a comment\ntask: 'quoted'   # named so\n",
    "flow.yaml": "{task: flow, tag: [shared, flowing]}\n",
    "listed.yaml": "task: listed\ntag:\n  - first\n  - shared\n",
    "group.yaml": "group: group\ntask:\n  - plain\n  - {group: inner, task: [quoted]}\n",
    "deep/second.yaml": "task: plain\ntag: second_of_its_name\n",
    "deep/uses.yaml": "include: _template\ntask: uses\n",
    "deep/uses_too.yaml": "include:\n  - ../plain.yaml\n  - _template\ntask: uses_too\n",
    "deep/_template": "tag: inherited\noutput_type: multiple_choice\n",
    "__pycache__/no.yaml": "task: ignored\n",
    "first.yaml": "task: named_otherwise\n",
    "both/twice.yaml": "task: twice\ndataset_path: a\n",
    "again/twice.yaml": "task: twice\ndataset_path: b\n",
    "broken.yaml": "task: broken\n  nonsense: [\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_every_name_of_lm_evals_index(root: Path) -> None:
    index = TaskManager(include_path=str(root), include_defaults=False).task_index
    assert len(index) == 14
    for name, entry in index.items():
        found = Catalog(root).find(name)
        assert found is not None, name
        assert (found.kind, found.yaml_path, found.tags) == (entry.kind, entry.yaml_path, entry.tags), name


@pytest.mark.parametrize("name", ["ignored", "inner", "plai", "nonsense", "first.yaml"])
def test_names_that_are_none(root: Path, name: str) -> None:
    assert Catalog(root).find(name) is None


def test_a_file_that_is_no_yaml(root: Path) -> None:
    with pytest.raises(TaskError, match=r"broken.yaml: .*Error: .*; mend the task's file"):
        Catalog(root).find("broken")


def test_lm_evals_own() -> None:
    catalog = builtin()
    for name, kind in {"gsm8k": "TASK", "arc_easy": "TASK", "mmlu": "GROUP", "ai2_arc": "TAG"}.items():
        found = catalog.find(name)
        assert found is not None
        assert found.kind.name == kind
    assert "mmlu_anatomy" in catalog.names
