from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import engine.stages
from engine.checkpoint import open_checkpoint
from engine.errors import EngineError, RecipeError
from engine.stages import Stage, merge_stages, read_stages, stage_folder, stages_folder
from engine.target import RECIPE_FILE

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


def interrupted(stages: Sequence[Stage], out: Path) -> None:
    """Merge until the last stage begins."""

    def stop(done: int, of: int) -> None:
        if out.with_name(f".{out.name}.partial").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_stages(stages, out, progress=stop)


def test_a_finished_result_in_between_is_used_again(make: Make, tmp_path: Path) -> None:
    a, b = make("a"), make("b", seed=1)
    stages = read_stages(text(document("half", a, b), document(None, "half", b)))
    other = read_stages(text(document("half", a, a), document(None, "half", b)))
    out = tmp_path / "out"
    result = stage_folder(out, "half")
    shard = result / "model.safetensors"
    interrupted(stages, out)
    first = shard.stat().st_mtime_ns
    interrupted(stages, out)
    assert shard.stat().st_mtime_ns == first
    interrupted(other, out)
    assert shard.stat().st_mtime_ns != first
    assert torch.equal(open_checkpoint(str(result)).read("lm_head.weight"), open_checkpoint(a).read("lm_head.weight"))
    merge_stages(stages, out)
    assert not stages_folder(out).exists()


def test_a_kill_before_the_note_does_not_make_other_weights_pass(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = make("a"), make("b", seed=1)
    first = read_stages(text(document("half", a), document(None, "half")))
    second = read_stages(text(document("half", b), document(None, "half")))
    out = tmp_path / "out"
    interrupted(first, out)
    write = engine.stages.write_checkpoint

    def killed(*arguments: Any, **options: Any) -> None:
        write(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engine.stages, "write_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            merge_stages(second, out)
    merge_stages(first, out)
    assert torch.equal(open_checkpoint(str(out)).read("lm_head.weight"), open_checkpoint(a).read("lm_head.weight"))


def test_a_later_stage_that_cannot_be_merged_leaves_nothing(make: Make, tmp_path: Path) -> None:
    wrong = read_stages(text(document("half", make("a")), document(None, "half", str(tmp_path / "absent"))))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EngineError, match="absent"):
        merge_stages(wrong, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["..", ".", "../up", "x" * 300])
def test_no_name_leads_out_of_the_folder_of_stages(make: Make, tmp_path: Path, name: str) -> None:
    a, out = make("a"), tmp_path / "results" / "out"
    out.parent.mkdir()
    (out.parent / "precious").write_text("x")
    merge_stages(read_stages(text(document(name, a), document(None, name))), out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["out", "precious"]


def test_a_link_in_the_place_of_the_stages_is_not_followed(make: Make, tmp_path: Path) -> None:
    precious, out = tmp_path / "precious", tmp_path / "out"
    precious.mkdir()
    (precious / "file").write_text("x")
    stages_folder(out).symlink_to(precious)
    merge_stages(read_stages(text(document("half", make("a")), document(None, "half"))), out)
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert not stages_folder(out).is_symlink()
