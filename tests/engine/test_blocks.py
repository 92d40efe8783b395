from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from engine.blocks import Block, resolve_parts
from engine.checkpoint import open_checkpoint
from engine.methods.linear import LINEAR
from engine.recipe import Recipe

Make = Callable[..., str]


def block(kind: Literal["required", "optional", "ignored"], **content: Any) -> Block:
    recipe = Recipe.model_validate({"merge_method": "linear", **content})
    opened = {name: open_checkpoint(name) for name in recipe.references}
    return resolve_parts(recipe, replace(LINEAR, base=kind), opened)[0].blocks[0]


@pytest.mark.parametrize(
    ("kind", "given", "listed", "base", "others"),
    [
        ("optional", False, False, None, "ab"),
        ("optional", True, False, "base", "ab"),
        ("optional", True, True, "base", "ab"),
        ("required", True, False, "base", "ab"),
        ("required", True, True, "base", "ab"),
        ("ignored", True, False, None, "ab"),
        ("ignored", True, True, None, "abB"),
    ],
)
def test_who_is_the_base(make: Make, kind: Any, given: bool, listed: bool, base: str | None, others: str) -> None:
    folders = {letter: make(name) for letter, name in (("a", "a"), ("b", "b"), ("B", "base"))}
    content: dict[str, Any] = {"models": [{"model": folders[letter]} for letter in ("abB" if listed else "ab")]}
    if given:
        content["base_model"] = folders["B"]
    got = block(kind, **content)
    assert (got.base and got.base.checkpoint.reference) == (folders["B"] if base else None)
    assert [s.checkpoint.reference for s in got.sources] == [folders[letter] for letter in others]
