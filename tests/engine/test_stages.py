from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.checkpoint import open_checkpoint
from engine.errors import EngineError, RecipeError
from engine.stages import merge_stages, read_stages, stages_folder
from engine.write import RECIPE_FILE

Make = Callable[..., str]


def document(name: str | None, *models: str, **more: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"name": name} if name else {}
    listed = [{"model": model, "parameters": {"weight": 1}} for model in models]
    return {**content, "merge_method": "linear", "models": listed, **more}


def text(*documents: dict[str, Any]) -> str:
    return yaml.safe_dump_all(documents)


def order(*documents: dict[str, Any]) -> list[str | None]:
    return [stage.name for stage in read_stages(text(*documents))]


def test_order_of_execution() -> None:
    assert order(document(None, "x", "second"), document("second", "first", "x"), document("first", "y")) == [
        "first",
        "second",
        None,
    ]
    assert order(document("a", "x"), document("b", "a", "x", base_model="a")) == ["a", "b"]
    assert order(document("a", "x"), document(None, "a+org/lora")) == ["a", None]
    assert order(document("alone", "x")) == ["alone"]
    assert order(document("alone", "alone")) == ["alone"]  # a single document has nobody to mean but the model


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([document("a", "x"), document("a", "y"), document(None, "a")], "two documents have the name 'a'"),
        ([document(None, "x"), document(None, "y")], "2 documents have no name"),
        ([document("a", "b"), document("b", "a"), document(None, "a")], "circle: the output -> a -> b -> a"),
        ([document("a", "a"), document(None, "a")], "circle: the output -> a -> a"),
        ([document("a", "x"), document("b", "x"), document(None, "b")], "the result of 'a' is used by no other"),
        ([document("a", "x"), {"merge_method": "linear"}], r"recipe\[1\]: give either"),
    ],
)
def test_refused(documents: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_stages(text(*documents))


def test_an_empty_file() -> None:
    with pytest.raises(RecipeError, match="is empty"):
        read_stages("# nothing\n---\n")


def test_stages_equal_one_merge(make: Make, tmp_path: Path) -> None:
    a, b, c = (make(name, seed=i) for i, name in enumerate("abc"))
    stages = read_stages(text(document("half", a, b), document(None, "half", c)))
    out = tmp_path / "new" / "out"
    got = merge_stages(stages, out)
    for name in got.config and open_checkpoint(str(out)).tensors:
        x, y, z = (open_checkpoint(m).read(name) for m in (a, b, c))
        torch.testing.assert_close(open_checkpoint(str(out)).read(name), ((x + y) / 2 + z) / 2)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    written = (out / RECIPE_FILE).read_text()
    assert read_stages(written) == stages
    assert ".out.stages" not in written
    card = (out / "README.md").read_text()
    assert "A merge of 3 models" in card
    assert "- `half`" not in card


def test_a_finished_result_in_between_is_used_again(make: Make, tmp_path: Path) -> None:
    a, b = make("a"), make("b", seed=1)
    wrong = read_stages(text(document("half", a, b), document(None, "half", str(tmp_path / "absent"))))
    right = read_stages(text(document("half", a, b), document(None, "half", b)))
    other = read_stages(text(document("half", a, a), document(None, "half", b)))
    out = tmp_path / "out"
    shard = stages_folder(out) / "half" / "model.safetensors"

    def fail() -> float:
        with pytest.raises(EngineError, match="absent"):
            merge_stages(wrong, out)
        return shard.stat().st_mtime_ns

    first = fail()
    assert fail() == first
    merge_stages(right, out)
    assert not stages_folder(out).exists()
    again = fail()
    with pytest.raises(EngineError, match="absent"):
        merge_stages(
            read_stages(text(*(stage.recipe.model_dump(exclude_none=True) for stage in (other[0], wrong[1])))), out
        )
    assert shard.stat().st_mtime_ns != again
    assert torch.equal(
        open_checkpoint(str(shard.parent)).read("lm_head.weight"), open_checkpoint(a).read("lm_head.weight")
    )
