from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.errors import CheckpointError, EngineError, RecipeError
from engine.execute import run_reference
from engine.merge import merge
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.room import peak_memory

Make = Callable[..., str]


def made(**content: Any) -> Plan:
    recipe = Recipe.model_validate(content)
    return plan(recipe, {name: open_checkpoint(name) for name in recipe.references})


def models(*names: str, **parameters: Any) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": parameters} for name in names]


def refusal(**content: Any) -> str:
    with pytest.raises(EngineError) as caught:
        made(**content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sizes_and_order(make: Make) -> None:
    a, b = make("a"), make("b", seed=1, dtype=torch.bfloat16)
    got = made(merge_method="linear", models=models(a, b, weight=1), dtype="float32", out_dtype="bfloat16")
    assert [job.name for job in got.jobs][:2] == ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight"]
    assert [job.name for job in got.jobs][-2:] == ["lm_head.weight", "model.norm.weight"]
    count = sum(info.nbytes for info in open_checkpoint(a).tensors.values()) // 4
    assert got.read_bytes == 6 * count
    assert got.write_bytes == 2 * count
    assert got.config["dtype"] == "bfloat16"
    assert peak_memory(got) >= 3 * 4 * 16 * 8


def test_dtypes_are_promoted_per_tensor(make: Make) -> None:
    a, b = make("a", dtype=torch.bfloat16), make("b", dtype=torch.float16)
    assert {job.dtype for job in made(merge_method="linear", models=models(a, a, weight=1)).jobs} == {torch.bfloat16}
    assert {job.dtype for job in made(merge_method="linear", models=models(a, b, weight=1)).jobs} == {torch.float32}


def test_base_outside_of_the_models_needs_no_weight(make: Make) -> None:
    a, b, base = make("a"), make("b", seed=1), make("base", seed=2)
    plain = made(merge_method="linear", models=models(a, b, weight=1))
    with_base = made(merge_method="linear", models=models(a, b, weight=1), base_model=base)
    for (_, x), (_, y) in zip(merge(plain), merge(with_base), strict=True):
        assert torch.equal(x, y)
    listed = made(merge_method="ties", models=[*models(a, b, weight=1), {"model": base}], base_model=base)
    apart = made(merge_method="ties", models=models(a, b, weight=1), base_model=base)
    for (_, x), (_, y) in zip(merge(listed), merge(apart), strict=True):
        assert torch.equal(x, y)


def test_jobs_do_not_depend_on_their_order(make: Make) -> None:
    a, b, base = make("a"), make("b", seed=1), make("base", seed=2)
    content: dict[str, Any] = {"merge_method": "dare_ties", "models": models(a, b, weight=1, density=0.5)}
    content |= {"base_model": base, "seed": 5}
    forward = dict(merge(made(**content)))
    backward = {job.name: run_reference(job, "cpu") for job in reversed(made(**content).jobs)}
    assert all(torch.equal(forward[name], backward[name]) for name in forward)
    other = dict(merge(made(**content | {"seed": 6})))
    assert not torch.equal(forward["lm_head.weight"], other["lm_head.weight"])


def test_merged_tensors_may_be_written_to(make: Make) -> None:
    for _, tensor in merge(made(merge_method="passthrough", models=models(make("a")))):
        tensor.zero_()


def test_frankenmerge_stacks_layers_and_their_lists(make: Make) -> None:
    a = make("a", layers=4, layer_types=["w", "x", "y", "z"])
    b = make("b", layers=4, seed=1, layer_types=["W", "X", "Y", "Z"])
    slices = [{"sources": [{"model": a, "layer_range": [0, 3]}]}, {"sources": [{"model": b, "layer_range": [1, 4]}]}]
    got = made(merge_method="passthrough", slices=slices)
    assert got.config["num_hidden_layers"] == 6
    assert got.config["layer_types"] == ["w", "x", "y", "X", "Y", "Z"]
    tensors = dict(merge(got))
    first, second = open_checkpoint(a), open_checkpoint(b)
    name = "model.layers.{}.mlp.up_proj.weight"
    for out, (source, layer) in enumerate([(first, 0), (first, 1), (first, 2), (second, 1), (second, 2), (second, 3)]):
        assert torch.equal(tensors[name.format(out)], source.read(name.format(layer)))
    assert torch.equal(tensors["model.embed_tokens.weight"], first.read("model.embed_tokens.weight"))
    assert torch.equal(tensors["model.norm.weight"], second.read("model.norm.weight"))


def test_last_slice_gives_norm_and_head_all_of_its_models(make: Make) -> None:
    a, b = make("a"), make("b", seed=1)
    one = [{"model": a, "layer_range": [0, 1], "parameters": {"weight": 1}}]
    two = [{"model": m, "layer_range": [1, 3], "parameters": {"weight": 1}} for m in (a, b)]
    tensors = dict(merge(made(merge_method="linear", slices=[{"sources": one}, {"sources": two}])))
    first, second = (open_checkpoint(m).read("model.norm.weight") for m in (a, b))
    torch.testing.assert_close(tensors["model.norm.weight"], (first + second) / 2)


def test_one_model_at_two_depths_is_two_sources(make: Make) -> None:
    a = make("a")
    sources = [{"model": a, "layer_range": [i, i + 1], "parameters": {"weight": 1}} for i in (0, 2)]
    tensors = dict(merge(made(merge_method="linear", slices=[{"sources": sources}])))
    name = "model.layers.{}.mlp.up_proj.weight"
    opened = open_checkpoint(a)
    want = (opened.read(name.format(0)) + opened.read(name.format(2))) / 2
    torch.testing.assert_close(tensors[name.format(0)], want)


def test_slices_of_one_span_equal_models(make: Make) -> None:
    a, b, base = make("a"), make("b", seed=1), make("base", seed=2)
    parameters = {"weight": [0.1, 0.9], "density": [0.3, 0.7]}
    whole = made(merge_method="ties", models=models(a, b, **parameters), base_model=base)
    sources = [{"model": m, "layer_range": [0, 3], "parameters": parameters} for m in (a, b)]
    sliced = made(merge_method="ties", slices=[{"sources": sources}], base_model=base)
    for (first, x), (second, y) in zip(merge(whole), merge(sliced), strict=True):
        assert first == second
        assert torch.equal(x, y)


def test_tied_and_untied_heads(make: Make) -> None:
    tied, untied = make("tied", tied=True), make("untied", seed=1)
    got = made(merge_method="linear", models=models(tied, untied, weight=1))
    want = open_checkpoint(tied).read("model.embed_tokens.weight") + open_checkpoint(untied).read("lm_head.weight")
    torch.testing.assert_close(dict(merge(got))["lm_head.weight"], want / 2)
    assert got.config["tie_word_embeddings"] is False
    both = made(merge_method="linear", models=models(tied, tied, weight=1))
    assert "lm_head.weight" not in dict(merge(both))
    assert both.config["tie_word_embeddings"] is True


def test_integers_must_agree(make: Make) -> None:
    name = "model.norm.steps"
    same, other = torch.arange(3), torch.arange(3) + 1
    a, b, c = (make(n, changes={name: t}) for n, t in (("a", same), ("b", same.clone()), ("c", other)))
    assert torch.equal(dict(merge(made(merge_method="linear", models=models(a, b, weight=1))))[name], same)
    with pytest.raises(CheckpointError, match=r"norm\.steps: holds torch\.int64"):
        dict(merge(made(merge_method="linear", models=models(a, c, weight=1))))


def test_models_that_do_not_fit(make: Make) -> None:
    a = make("a")
    narrow = {"model.norm.weight": torch.zeros(5)}

    def against(name: str, **how: Any) -> str:
        return refusal(merge_method="linear", models=models(a, make(name, **how), weight=1))

    message = against("b", changes=narrow)
    assert message.startswith("models[1] (")
    assert "model.norm.weight has shape (5,), models[0]" in message
    assert message.endswith("has (8,); only fine-tunes of one architecture can be merged")
    assert "model_type is gpt2" in against("c", model_type="gpt2")
    assert "lacks model.norm.weight" in against("d", changes={"model.norm.weight": None})
    assert "has model.extra.weight" in against("e", changes={"model.extra.weight": torch.zeros(2)})
    assert "has model.layers.3" in against("f", layers=4)
    assert "tokenizer_source" in against("g", vocabulary=12)
    with_buffer = against("i", changes=narrow | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)})
    assert "inv_freq" not in with_buffer


def test_recipes_that_do_not_fit(make: Make) -> None:
    a, b = make("a"), make("b", seed=1)
    assert "did you mean 'ties'" in refusal(merge_method="tise", models=models(a, weight=1))
    assert "needs a base_model" in refusal(merge_method="ties", models=models(a, weight=1))
    assert "no weight for" in refusal(merge_method="linear", models=models(a))
    assert "did you mean 'weight'" in refusal(merge_method="linear", models=models(a, wieght=1))
    assert "exactly 1 model besides the base, not 2" in refusal(
        merge_method="slerp", models=models(a, b, a)[:3], base_model=a, parameters={"t": 0.5}
    )
    assert "beyond its 3 layers" in refusal(
        merge_method="passthrough", slices=[{"sources": [{"model": a, "layer_range": [1, 4]}]}]
    )
    assert "give true or false" in refusal(
        merge_method="linear", models=models(a, weight=1), parameters={"normalize": 0.5}
    )
    assert "give a number" in refusal(merge_method="linear", models=models(a, weight=True))
    with pytest.raises(RecipeError, match=r"embed_tokens\.weight: linear: the weights .* sum to 0"):
        dict(merge(made(merge_method="linear", models=[*models(a, weight=1), *models(b, weight=-1)])))


def test_missing_tensors_are_named_up_to_three(make: Make) -> None:
    a, b = make("a"), make("b", layers=4)
    message = refusal(merge_method="linear", models=models(a, b, weight=1))
    assert "has model.layers.3.input_layernorm.weight, model.layers.3.mlp.up_proj.weight, " in message
    assert message.count("model.layers.3") == 3
    assert f"models[1] ({b})" in message
    c = make("c", layers=9)
    message = refusal(merge_method="linear", models=models(c, a, weight=1))
    assert "lacks model.layers.3." in message
    assert " and 15 more tensors, which models[0]" in message


def test_float8_is_read_as_wider_numbers(make: Make) -> None:
    wide = make("wide", dtype=torch.bfloat16)
    stored = {name: open_checkpoint(wide).read(name).to(torch.float8_e4m3fn) for name in open_checkpoint(wide).tensors}
    small = make("small", changes=dict(stored))
    alone = made(merge_method="linear", models=models(small, weight=1))
    assert {job.dtype for job in alone.jobs} == {torch.bfloat16}
    for name, tensor in merge(alone):
        assert torch.equal(tensor, stored[name].to(torch.bfloat16))
    mixed = made(merge_method="linear", models=models(small, wide, weight=1), out_dtype="float32")
    assert {job.dtype for job in mixed.jobs} == {torch.float32}
    for suffix in ("_scale", "_scale_inv"):
        scaled = stored | {f"model.layers.0.mlp.up_proj.weight{suffix}": torch.ones(1)}
        quantised = make(f"quantised{suffix}", changes=dict(scaled))
        message = refusal(merge_method="linear", models=models(quantised, weight=1))
        assert f"up_proj.weight is quantised: model.layers.0.mlp.up_proj.weight{suffix} stands beside it" in message


def test_thousands_of_tensors_are_planned(make: Make) -> None:
    """As many tensors as a large mixture of experts has; a search plans hundreds of times (measured: 0.45 s)."""
    experts = {f"model.layers.{i}.mlp.experts.{j}.weight": torch.zeros(2) for i in range(24) for j in range(300)}
    a, b = make("a", layers=24, changes=dict(experts)), make("b", layers=24, changes=dict(experts))
    recipe = Recipe.model_validate({"merge_method": "ties", "base_model": a, "models": models(b, weight=[0, 1])})
    opened = {name: open_checkpoint(name) for name in recipe.references}
    assert len(plan(recipe, opened).jobs) == 7203 + 3 * 24
