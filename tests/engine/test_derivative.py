"""Derivatives of a merge by its weights are those that the methods' references have, masks and signs held fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.derivative import WEIGHTS, derivative
from engine.errors import RecipeError
from engine.job import Job
from engine.kept import Kept
from engine.methods import METHODS
from engine.plan import plan
from engine.recipe import Recipe

DEMO = Path(__file__).parents[2] / "tasks" / "demo" / "models"
NAMES = [str(DEMO / name) for name in ("base", "reverse", "sort", "shift")]
STEP = 1e-7
SHARED: list[dict[str, Any]] = [{}, {"normalize": True}, {"normalize": False, "lambda": 0.8}]
TENSORS = ("embed_tokens", "layers.0.self_attn.q_proj", "layers.1.input_layernorm", "layers.3.mlp.up_proj")


@pytest.fixture(scope="module")
def models() -> dict[str, Checkpoint]:
    return {name: open_checkpoint(name) for name in NAMES}


def jobs(models: Mapping[str, Checkpoint], method: str, shared: Mapping[str, Any], **own: Any) -> list[Job]:
    """Jobs of matrices and vectors, small ones and large ones, with weights that leave no sign undecided."""
    row = METHODS[method]
    known = {parameter.name: parameter for parameter in row.parameters}
    values = {"density": (0.5, 0.6, 0.7), "weight": (0.41, 0.73, 1.13), "scale": (0.7,), "epsilon": (0.1, 0.1, 0.1)}
    values |= {name: tuple(each) for name, each in own.items()}
    count = min(3, row.inputs[1] or 3)
    given = [
        {name: values[name][i] for name in values if name in known and known[name].scope != "shared"}
        for i in range(count)
    ]
    whole = {name: value for name, value in shared.items() if name in known}
    whole |= {"t": 0.3} if "t" in known else {}
    recipe = Recipe.model_validate(
        {
            "merge_method": method,
            **({} if row.base == "ignored" else {"base_model": NAMES[0]}),
            "models": [{"model": m, "parameters": p} for m, p in zip(NAMES[1 : 1 + count], given, strict=True)],
            "parameters": whole,
            "dtype": "float32",
            "seed": 3,
        }
    )
    return [job for job in plan(recipe, models).jobs if any(part in job.name for part in TENSORS)]


def by_differences(job: Job, gradient: torch.Tensor, name: str, place: int) -> float:
    """The derivative of <G, W> by one number, from the reference in float64."""

    def merged(step: float) -> torch.Tensor:
        value = job.parameters[name]
        moved = value + step if not isinstance(value, tuple) else tuple(
            each + step * (i == place) for i, each in enumerate(value)
        )  # fmt: skip
        assert job.method is not None
        inputs = [source.read(torch.float64, "cpu") for source in job.inputs]
        base = job.base.read(torch.float64, "cpu") if job.base else None
        return job.method.reference(inputs, base, {**job.parameters, name: moved}, job.key)

    return float(((merged(STEP) - merged(-STEP)) * gradient).sum()) / (2 * STEP)


@pytest.mark.parametrize("shared", SHARED, ids=["default", "normalize", "lambda"])
@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.differentiable])
def test_derivatives_are_those_of_the_reference(
    method: str, shared: Mapping[str, Any], models: dict[str, Checkpoint]
) -> None:
    kept = Kept(0)
    for job in jobs(models, method, shared):
        gradient = torch.randn(job.shape, generator=torch.Generator().manual_seed(1))
        found = derivative(job, gradient, kept=kept)
        assert set(found) == {name for name in WEIGHTS if name in job.parameters}
        for name, slopes in found.items():
            for place, slope in enumerate(slopes):
                want = by_differences(job, gradient, name, place)
                assert slope == pytest.approx(want, rel=1e-5, abs=1e-6 * float(gradient.norm())), (job.name, name)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_bfloat16_gradient_is_read_as_it_is(method: str, models: dict[str, Checkpoint]) -> None:
    for job in jobs(models, method, {}):
        gradient = torch.randn(job.shape).to(torch.bfloat16)
        assert derivative(job, gradient) == derivative(job, gradient.float())


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads: int, models: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs(models, "dare_ties", {})[0]
    gradient = torch.randn(job.shape)
    alone = derivative(job, gradient)
    monkeypatch.setattr("engine.derivative.LARGE", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert derivative(job, gradient) == alone
    finally:
        torch.set_num_threads(before)


def test_a_weight_of_nothing_can_come_back(models: dict[str, Checkpoint]) -> None:
    """At 0 the derivative is that from above, though what weighs nothing agrees with no sign."""
    for job in jobs(models, "ties", {"normalize": False}, weight=(0.0, 0.73, 0.0)):
        gradient = torch.randn(job.shape, generator=torch.Generator().manual_seed(2))
        found = derivative(job, gradient)["weight"]
        assert job.base is not None
        base = job.base.read(torch.float32, "cpu")
        for place in (0, 2):
            weights = tuple(1e-9 if i == place else w for i, w in enumerate(job.parameters["weight"]))
            above = derivative(replace(job, parameters={**job.parameters, "weight": weights}), gradient)["weight"]
            assert found[place] == pytest.approx(above[place], rel=1e-4)
            trained = not torch.equal(job.inputs[place].read(torch.float32, "cpu"), base)
            assert bool(found[place]) == trained, (job.name, place)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if not row.differentiable])
def test_other_methods_say_that_they_have_none(method: str, models: dict[str, Checkpoint]) -> None:
    job = jobs(models, method, {})[0]
    with pytest.raises(RecipeError, match=method):
        derivative(job, torch.ones(job.shape))


def test_rows_of_their_own_angle_have_none(models: dict[str, Checkpoint]) -> None:
    job = jobs(models, "nuslerp", {"nuslerp_flatten": False})[0]
    with pytest.raises(RecipeError, match="whole tensors"):
        derivative(job, torch.ones(job.shape))
