"""The examples of the documentation are true: they parse, and what they name exists."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml

from engine.methods import METHODS
from engine.stages import read_stages
from evolve.cli import app
from evolve.config.search_yaml import SearchConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[str]:
    found = [block for page in PAGES for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [text for kind, text in found if kind == language]


def test_yaml_examples_are_searches_or_recipes() -> None:
    examples = blocks("yaml")
    assert len(examples) >= 2
    for text in examples:
        if "merge_method" in text:
            read_stages(text)
        else:
            SearchConfig.model_validate(yaml.safe_load(text))


def test_the_method_of_the_contributing_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("python")
    scope: dict[str, object] = {"__name__": "example"}
    exec(compile(textwrap.dedent(example), "CONTRIBUTING.md", "exec"), scope)
    monkeypatch.setitem(METHODS, "nearest", scope["NEAREST"])  # type: ignore[arg-type]
    from search_spaces import SPACES
    from search_spaces.assemble import Spec
    from search_spaces.depth import Family
    from search_spaces.space import search_space

    family = Family("b", ("x", "y"), 4, ("embed.weight",), "float32")
    space = search_space(Spec(family, ("nearest",), SPACES["blocks"], 2, (), {}, 0))
    assert {gene.name.split(".")[0] for gene in space.genes} == {"nearest", "t"}
    assert space.decode(space.start[0]).merge_method == "nearest"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_commands_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
    known = {str(command.name or getattr(command.callback, "__name__", "")) for command in app.registered_commands}
    for command in re.findall(r"`evolve (\w+)", text):
        assert command in known, f"{page.name} names evolve {command}"


def test_every_method_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in METHODS if name not in readme]


def test_the_demo_search_is_valid() -> None:
    config = yaml.safe_load((ROOT / "tasks" / "demo" / "search.yaml").read_text(encoding="utf-8"))
    assert SearchConfig.model_validate(config).search.trials <= 60
