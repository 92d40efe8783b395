from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.nonfinite import is_finite, nonfinite, nonfinite_source
from engine.plan import plan
from engine.recipe import Recipe

Make = Callable[..., str]
BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
def test_one_bad_element_is_seen_wherever_it_stands(dtype: torch.dtype) -> None:
    for size in (1, 7, 1000):
        assert is_finite(torch.ones(size).to(dtype))
        for value in BAD:
            for at in {0, size // 2, size - 1}:
                tensor = torch.ones(size)
                tensor[at] = value
                assert not is_finite(tensor.to(dtype))
    assert is_finite(torch.zeros(0, 3, dtype=dtype))
    assert is_finite(torch.tensor(3))
    assert is_finite(torch.full((4,), torch.finfo(dtype).max, dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("value", BAD)
def test_the_tensor_is_named(make: Make, value: float) -> None:
    assert nonfinite(open_checkpoint(make("a", changes={"empty": torch.zeros(0), "whole": torch.arange(3)}))) is None
    bad = torch.tensor([0.0] * 7 + [value])
    assert nonfinite(open_checkpoint(make("b", changes={"model.norm.weight": bad}))) == "model.norm.weight"
    assert nonfinite(open_checkpoint(make("c", changes={"x": torch.tensor(value)}))) == "x"


def test_the_model_is_named(make: Make) -> None:
    good, base = make("good", seed=1), make("base")
    bad = make("bad", seed=2, changes={"model.norm.weight": torch.full((8,), math.nan)})
    for models, lowest in (((good, bad), base), ((good, good), bad)):
        recipe = Recipe.from_yaml(
            f"{{merge_method: ties, base_model: {lowest}, models: ["
            + ", ".join(f"{{model: {model}, parameters: {{weight: 1}}}}" for model in dict.fromkeys(models))
            + "]}"
        )
        made = plan(recipe, {reference: open_checkpoint(reference) for reference in recipe.references})
        for job in made.jobs:
            assert nonfinite_source(job) == ((bad, job.name) if job.name == "model.norm.weight" else None)
