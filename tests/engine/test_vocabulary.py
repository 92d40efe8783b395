from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.errors import CheckpointError, RecipeError
from engine.merge import merge
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.tokenizer import extend_tokenizer, read_vocabulary
from engine.write import write_checkpoint

Make = Callable[..., str]
EMBEDDING = "model.embed_tokens.weight"


def tokenizer(folder: str | Path, model: dict[str, Any], added: list[tuple[int, str]] | None = None) -> str:
    tokens = [{"id": i, "content": token, "special": True} for i, token in added or []]
    Path(folder, "tokenizer.json").write_text(json.dumps({"added_tokens": tokens, "model": model}))
    return str(folder)


def words(*tokens: str) -> dict[str, Any]:
    return {"type": "WordLevel", "vocab": {token: i for i, token in enumerate(tokens)}, "unk_token": "a"}


def made(**content: Any) -> tuple[Plan, dict[str, Checkpoint]]:
    recipe = Recipe.model_validate({"merge_method": "linear", **content})
    opened = {name: open_checkpoint(name) for name in recipe.references}
    return plan(recipe, opened), opened


def entries(*names: str, weights: tuple[float, ...]) -> list[dict[str, Any]]:
    return [{"model": n, "parameters": {"weight": w}} for n, w in zip(names, weights, strict=True)]


def test_fill_rules(make: Make) -> None:
    """p lacks `d`, which base and q have: the base's row. p and q lack nothing else; `e` is q's alone."""
    base = tokenizer(make("base", vocabulary=4), words("a", "b", "c", "d"))
    p = tokenizer(make("p", vocabulary=3, seed=1), words("c", "b", "a"))
    q = tokenizer(make("q", vocabulary=5, seed=2), words("a", "b", "c", "d", "e"))
    got, opened = made(models=entries(p, q, weights=(1.0, 0.0)), base_model=base, tokenizer_source="union")
    rows = {name: opened[name].read(EMBEDDING) for name in opened}
    ids = json.loads(got.files["tokenizer.json"] or b"")["model"]["vocab"]
    merged = dict(merge(got))[EMBEDDING]
    assert got.config["vocab_size"] == 5
    for token, want in [("a", rows[p][2]), ("c", rows[p][0]), ("d", rows[base][3]), ("e", rows[q][4])]:
        torch.testing.assert_close(merged[ids[token]], want)


def test_mean_without_a_base(make: Make) -> None:
    last = {"p": "c", "q": "c", "r": "d"}
    names = [tokenizer(make(n, vocabulary=3, seed=i), words("a", "b", last[n])) for i, n in enumerate(last)]
    got, opened = made(models=entries(*names, weights=(0.0, 0.0, 1.0)), tokenizer_source="union")
    want = (opened[names[0]].read(EMBEDDING)[2] + opened[names[1]].read(EMBEDDING)[2]) / 2
    torch.testing.assert_close(dict(merge(got))[EMBEDDING][2], want)


def test_padding_rows_stay_where_vocabularies_agree(make: Make) -> None:
    p, q = (tokenizer(make(n, vocabulary=6, seed=i), words("a", "b")) for i, n in enumerate("pq"))
    got, _ = made(models=entries(p, q, weights=(1, 1)), tokenizer_source="union")
    assert dict(merge(got))[EMBEDDING].shape == (6, 8)
    assert got.files == {}


@pytest.mark.parametrize(
    ("wanted", "donor"), [(None, "base"), ("base", "base"), ("union", "base"), ("p", "p"), ("q", "q")]
)
def test_the_named_tokenizer_is_copied_where_vocabularies_agree(
    make: Make, tmp_path: Path, wanted: str | None, donor: str
) -> None:
    folders = {}
    for i, name in enumerate(("base", "p", "q")):
        folders[name] = tokenizer(make(name, seed=i, vocabulary=2, eos_token_id=i), words("a", "b"))
        Path(folders[name], "chat_template.jinja").write_text(name)
    merged = [{"model": folders[name], "parameters": {"weight": 1}} for name in ("base", "p")]
    content: dict[str, Any] = {"merge_method": "task_arithmetic", "models": merged, "base_model": folders["base"]}
    if wanted:
        content["tokenizer_source"] = folders.get(wanted, wanted)
    got, _ = made(**content)
    write_checkpoint(got, tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == donor
    assert got.config["eos_token_id"] == list(folders).index(donor)
    assert got.owner.reference == folders["base"]


def test_tokens_beyond_the_embedding_count_as_absent(make: Make) -> None:
    p = tokenizer(make("p", vocabulary=2), words("a", "b", "c"))
    q = tokenizer(make("q", vocabulary=3, seed=1), words("a", "b", "c"))
    got, opened = made(models=entries(p, q, weights=(1, 0)), tokenizer_source=p)
    torch.testing.assert_close(dict(merge(got))[EMBEDDING][2], opened[q].read(EMBEDDING)[2])


def test_a_tied_model_fills_the_head_from_its_embedding(make: Make) -> None:
    p = tokenizer(make("p", vocabulary=3, tied=True), words("a", "b", "c"))
    q = tokenizer(make("q", vocabulary=2, seed=1), words("b", "a"))
    got, opened = made(models=entries(p, q, weights=(0, 1)), tokenizer_source="union")
    head = dict(merge(got))["lm_head.weight"]
    torch.testing.assert_close(head[2], opened[p].read(EMBEDDING)[2])
    torch.testing.assert_close(head[0], opened[q].read("lm_head.weight")[1])


def test_missing_tokenizer(make: Make) -> None:
    with pytest.raises(CheckpointError, match=r"no usable tokenizer\.json"):
        made(models=entries(make("p"), make("q"), weights=(1, 1)), tokenizer_source="union")


def test_union_of_bpe_brings_its_merges_and_loads(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    for name, vocab, merges in (("p", "abc", []), ("q", ["a", "b", "d", "ab", "abd"], ["a b", "ab d"])):
        (tmp_path / name).mkdir()
        model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(vocab)}, "merges": merges}
        end = len(model["vocab"])  # type: ignore[arg-type]
        Path(tmp_path, name, "tokenizer.json").write_text(
            json.dumps(
                {
                    "version": "1.0", "model": model, "added_tokens": [
                        {"id": end, "content": f"<{name}>", "single_word": False, "lstrip": False, "rstrip": False,
                         "normalized": False, "special": True}
                    ],
                }
            )
        )  # fmt: skip
    ids, files = extend_tokenizer(tmp_path / "p", [tmp_path / "q"], [], "p")
    assert ids == {"a": 0, "b": 1, "c": 2, "<p>": 3, "d": 4, "ab": 5, "abd": 6, "<q>": 7}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer.json").write_bytes(files["tokenizer.json"] or b"")
    assert read_vocabulary(tmp_path / "out", "out") == ids
    assert files["merges.txt"] is None
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert loaded.encode("abdc<q>").ids == [6, 2, 7]


def test_tokens_take_the_rows_that_the_recipe_names(make: Make) -> None:
    """`c` is p's alone. New: <z> is zeros, <t> q's row of b, <i> p's row 1; `a` of both is forced to be q's."""
    p = tokenizer(make("p", vocabulary=3), words("a", "b", "c"))
    q = tokenizer(make("q", vocabulary=3, seed=1), words("b", "a"))
    source: dict[str, Any] = {
        "<z>": {"source": {"kind": "zero"}},
        "<t>": {"source": {"kind": "model_token", "model": q, "token": "b"}},
        "<i>": {"source": {"kind": "model_token", "model": p, "token_id": 1}},
        "c": {"source": {"kind": "zero"}},
        "a": {"source": q, "force": True},
        "<nobody>": {},
    }
    got, opened = made(models=entries(p, q, weights=(0.25, 0.75)), tokenizer={"tokens": source})
    ids = read_ids(got)
    row = {name: opened[name].read(EMBEDDING) for name in (p, q)}
    want = {
        "<z>": torch.zeros(8),
        "<t>": row[q][0],
        "<i>": row[p][1],
        "c": 0.25 * row[p][2],
        "a": row[q][1],
        "b": 0.25 * row[p][1] + 0.75 * row[q][0],
        "<nobody>": torch.zeros(8),
    }
    merged = dict(merge(got))
    for token, expected in want.items():
        torch.testing.assert_close(merged[EMBEDDING][ids[token]], expected, msg=token)
    assert len(merged["lm_head.weight"]) == len(ids) == got.config["vocab_size"]


def read_ids(got: Plan) -> dict[str, int]:
    content = json.loads(got.files["tokenizer.json"] or b"")
    return content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}


def test_new_tokens_with_the_base_s_tokenizer(make: Make) -> None:
    base = tokenizer(make("base", vocabulary=2), words("a", "b"))
    p = tokenizer(make("p", vocabulary=2, seed=1), words("a", "b"))
    tokens = {"<new>": {"source": base}, "<pad>": {"source": "base"}}
    message = "has no token '<new>'; name another source"
    with pytest.raises(RecipeError, match=message):
        made(models=entries(p, weights=(1,)), base_model=base, tokenizer={"source": "base", "tokens": tokens})
    tokens = {"<new>": {"source": {"kind": "model_token", "model": base, "token": "a"}}}
    got, opened = made(models=entries(p, weights=(1,)), base_model=base, tokenizer={"source": "base", "tokens": tokens})
    torch.testing.assert_close(dict(merge(got))[EMBEDDING][read_ids(got)["<new>"]], opened[base].read(EMBEDDING)[0])


def test_a_row_that_is_not_there(make: Make) -> None:
    p = tokenizer(make("p", vocabulary=2), words("a", "b"))
    tokens = {"<new>": {"source": {"kind": "model_token", "model": p, "token_id": 2}}}
    with pytest.raises(RecipeError, match=r"tokenizer\.tokens\.<new>: .* has no row 2 \(it has 2\)"):
        made(models=entries(p, weights=(1,)), tokenizer={"tokens": tokens})


def test_padding_is_the_mean_row_of_each_model(make: Make) -> None:
    p = tokenizer(make("p", vocabulary=3), words("a", "b", "c"))
    q = tokenizer(make("q", vocabulary=6, seed=1), words("b", "a"))
    got, opened = made(models=entries(p, q, weights=(0, 1)), tokenizer={"pad_to_multiple_of": 8})
    merged = dict(merge(got))
    assert got.config["vocab_size"] == 8
    for name in (EMBEDDING, "lm_head.weight"):
        rows = torch.stack([opened[q].read(name)[1], opened[q].read(name)[0], opened[p].read(name)[2]])
        torch.testing.assert_close(merged[name][:3], rows)
        torch.testing.assert_close(merged[name][3:], rows.mean(dim=0).expand(5, 8))


def test_padding_alone_rebuilds_vocabularies_that_agree(make: Make) -> None:
    p = tokenizer(make("p", vocabulary=3), words("a", "b", "c"))
    got, opened = made(models=entries(p, weights=(1,)), tokenizer={"source": "base", "pad_to_multiple_of": 4})
    assert got.files == {}
    assert torch.equal(dict(merge(got))[EMBEDDING][:3], opened[p].read(EMBEDDING))
    assert got.config["vocab_size"] == 4


def test_a_large_vocabulary_is_planned_at_once(make: Make) -> None:
    """Four models with 128k tokens each in another order: tables, no loop of torch calls (a second on one core)."""
    size, names = 128_000, []
    for seed in range(4):
        vocab = {f"w{(i * 7919 + seed) % (size + seed)}": i for i in range(size)}
        folder = make(f"m{seed}", vocabulary=size, width=1, layers=1)
        names.append(tokenizer(folder, {"type": "WordLevel", "vocab": vocab}))
    recipe = Recipe.model_validate(
        {"merge_method": "linear", "models": entries(*names, weights=(1, 1, 1, 1)), "tokenizer_source": "union"}
    )
    opened = {name: open_checkpoint(name) for name in names}
    plan(recipe, opened)


def test_a_bias_per_token_follows_its_head(make: Make) -> None:
    bias = {f"{seed}": {"lm_head.bias": torch.arange(3.0) + 10 * seed} for seed in range(2)}
    p = tokenizer(make("p", vocabulary=3, changes=dict(bias["0"])), words("a", "b", "c"))
    q = tokenizer(make("q", vocabulary=3, seed=1, changes=dict(bias["1"])), words("c", "b", "d"))
    got, _ = made(models=entries(p, q, weights=(0.5, 0.5)), tokenizer_source="union")
    torch.testing.assert_close(dict(merge(got))["lm_head.bias"], torch.tensor([0.0, 6.0, 6.0, 12.0]))


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{", '{"model": []}', '{"model": {"vocab": 5}}', '{"model": {"vocab": {"a": "b"}}}',
        '{"model": {"vocab": {"a": -1}}}', '{"model": {"vocab": {"a": 1e9}}}', '{"model": {"vocab": {}}}',
        '{"model": {"vocab": {"a": 99999999999999}}}',
        '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "b"}]}',
        '{"model": {"vocab": {"a": 0}}, "added_tokens": 3}', '{"model": {"vocab": [["a"]]}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_broken_tokenizers_are_one_line(make: Make, content: str) -> None:
    p, q = tokenizer(make("p"), words("a")), make("q")
    Path(q, "tokenizer.json").write_text(content)
    for names in ((p, q), (q, p)):
        with pytest.raises(CheckpointError, match=r"no usable tokenizer\.json") as caught:
            made(models=entries(*names, weights=(1, 1)), tokenizer_source="union")
        assert "\n" not in str(caught.value)


def test_broken_merges_are_one_line(make: Make) -> None:
    p = tokenizer(make("p"), {"type": "BPE", "vocab": {"a": 0}, "merges": []})
    q = tokenizer(make("q"), {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b c", 5]})
    with pytest.raises(CheckpointError, match=r"no usable tokenizer\.json"):
        made(models=entries(p, q, weights=(1, 1)), tokenizer_source="union")
