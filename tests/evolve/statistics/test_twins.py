"""Two recipes that say one merge in other words are known by what they plan."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoint import open_checkpoint
from engine.recipe import Recipe
from evolve.statistics.twins import alike, same_merge
from tasks.score import Score

MODELS = Path(__file__).parents[3] / "tasks" / "demo" / "models"
BASE, ONE = (str(MODELS / name) for name in ("base", "reverse"))
CHECKPOINTS = {name: open_checkpoint(name) for name in (BASE, ONE)}
LAYERS = CHECKPOINTS[BASE].config["num_hidden_layers"]


def recipe(weight: float, cut: int = 0) -> Recipe:
    """Task arithmetic of one source; in slices where it is cut."""
    head = {"merge_method": "task_arithmetic", "base_model": BASE, "dtype": "float32"}
    own = {"parameters": {"weight": weight}}
    if not cut:
        return Recipe.model_validate({**head, "models": [{"model": BASE}, {"model": ONE, **own}]})
    slices = [
        {"sources": [{"model": BASE, "layer_range": layers}, {"model": ONE, "layer_range": layers, **own}]}
        for layers in ([0, cut], [cut, LAYERS])
    ]
    return Recipe.model_validate({**head, "slices": slices})


def test_slices_with_the_same_numbers_are_the_same_merge() -> None:
    assert recipe(0.3) != recipe(0.3, cut=1)
    assert same_merge(recipe(0.3), recipe(0.3, cut=1), CHECKPOINTS)
    assert not same_merge(recipe(0.3), recipe(0.4, cut=1), CHECKPOINTS)


def test_answers_are_alike_up_to_rounding_and_never_by_right_or_wrong_alone() -> None:
    def score(answer: float, *names: str) -> Score:
        return Score({"t": {name: {0: answer} for name in names}}, {})

    assert alike(score(-1.0, "acc", "loglikelihood"), score(-1.00001, "acc", "loglikelihood"))
    assert not alike(score(-1.0, "acc", "loglikelihood"), score(-1.01, "acc", "loglikelihood"))
    assert not alike(score(1.0, "acc"), score(1.0, "acc"))
