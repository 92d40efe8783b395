"""What a search has to beat: the base, every source, and plain merges with their usual settings."""

from __future__ import annotations

from collections.abc import Sequence

from engine.methods import METHODS
from engine.recipe import Recipe
from search_spaces.assemble import labels
from search_spaces.depth import Family
from search_spaces.layer_order import edits_text, untouched
from search_spaces.space import DECIMALS, STRENGTHS, Point, SearchSpace

TASK_ARITHMETIC_WEIGHT = 0.3  # Ilharco et al. 2023, "Editing models with task arithmetic", for many tasks
WINNER, BASE = "winner", "base"  # rows of the report
AVERAGE, ARITHMETIC = "uniform average", f"task arithmetic, weight {TASK_ARITHMETIC_WEIGHT}"
RESERVED = (WINNER, BASE, AVERAGE)  # so a source of that name gets another label
AVERAGING = ("linear", "task_arithmetic")  # methods whose merge is the mean where every weight is 1/k
DARE_DENSITY = 0.1  # Yu et al. 2024, arXiv:2311.03099: drop 90 %, rescale the rest
TIES_DENSITY = 0.2  # Yadav et al. 2023, "TIES-Merging": keep the top 20 %, weight 1, when nothing can be tuned


def model_recipes(family: Family) -> dict[str, Recipe]:
    """The base and the sources as they are, by their labels."""
    names = {model: f"source {name}" if name in RESERVED else name for model, name in labels(family.models).items()}
    names[family.base] = BASE
    return {names[model]: Recipe.model_validate(untouched(model, family)) for model in family.models}


def plain_merges(family: Family) -> dict[str, Recipe]:
    """Uniform average of the sources, task arithmetic, TIES and DARE as published, untuned."""
    weight = TASK_ARITHMETIC_WEIGHT
    return {
        AVERAGE: averaged(family, family.sources),
        ARITHMETIC: merged(family, "task_arithmetic", weight=weight),
        f"TIES, density {TIES_DENSITY}": merged(family, "ties", weight=1.0, density=TIES_DENSITY),
        f"DARE, density {DARE_DENSITY}": merged(family, "dare_linear", weight=weight, density=DARE_DENSITY),
    }


def opening_merges(space: SearchSpace) -> dict[str, Recipe]:
    """The plain merges, and a grid of task arithmetic's strengths where the space's own start has none."""
    family = space.spec.family
    grid = () if "task_arithmetic" in space.spec.methods else STRENGTHS
    strengths = {
        f"task arithmetic, weight {strength:g}": merged(family, "task_arithmetic", weight=strength) for strength in grid
    }
    return strengths | plain_merges(family)


def averaged(family: Family, models: Sequence[str]) -> Recipe:
    """The mean of some of the sources."""
    return _recipe(family, "linear", None, models, {"weight": 1.0})


def merged(family: Family, method: str, **own: float) -> Recipe:
    """All sources merged into the base, each with the same parameters."""
    return _recipe(family, method, family.base, family.sources, own)


def _recipe(family: Family, method: str, base: str | None, models: Sequence[str], own: dict[str, float]) -> Recipe:
    return Recipe.model_validate(
        {
            "merge_method": METHODS[method].name,
            **({"base_model": base} if base else {}),
            "models": [
                *([{"model": base}] if base else []),
                *({"model": model, "parameters": own} for model in models),
            ],
            "dtype": "float32",
            "out_dtype": family.out_dtype,
        }
    )


def start_name(space: SearchSpace, point: Point) -> str:
    """What a start point is called: its method and the strength that it begins with."""
    values = space.named(point)
    if space.spec.order:
        return edits_text(space.genes, values)
    weights = [float(value) for name, value in values.items() if "weight" in name.split(".")[:2]]
    strength = f", weight {max(weights):g}" if weights else ""
    scale = f", scale {values['scale']:g}" if values.get("scale", 1.0) != 1.0 else ""
    return f"{values.get('method', space.spec.methods[0])}{strength}{scale}"


def opening_merge(space: SearchSpace, recipe: Recipe) -> str:
    """Which candidate that every search begins with, and which plain merge, the recipe is; "" for any other."""
    point = next((point for point in space.start if space.decode(point).digest == recipe.digest), None)
    if point is None:
        return ""
    if space.spec.order:
        return start_name(space, point)
    values = space.named(point)
    method = str(values.get("method", space.spec.methods[0]))
    known = f"{method} with one weight for all sources"
    weights = [float(value) for name, value in values.items() if "weight" in name.split(".")[:2]]
    # Nothing else is set that changes the merge.
    plain = space.spec.bounds.keys() <= {"weight"} and values.get("scale", 1.0) == 1.0
    share = 1 / len(space.spec.family.sources)
    if plain and weights and method in AVERAGING and all(near(weight, share) for weight in weights):
        return f"{known}, which is the uniform average"
    return known


def near(weight: float, other: float) -> bool:
    """Whether both are one weight in a recipe, where it is rounded."""
    return abs(weight - other) < 2 * 0.1**DECIMALS
