"""What a search has to beat: the base, every source, and plain merges with their usual settings."""

from __future__ import annotations

from engine.methods import METHODS
from engine.recipe import Recipe
from search_spaces.assemble import labels
from search_spaces.depth import Family
from search_spaces.space import DECIMALS, SearchSpace

TASK_ARITHMETIC_WEIGHT = 0.3  # Ilharco et al. 2023, "Editing models with task arithmetic", for many tasks
WINNER, BASE = "winner", "base"  # rows of the report
RESERVED = (WINNER, BASE, "uniform average")  # so a source of that name gets another label
AVERAGING = ("linear", "task_arithmetic")  # methods whose merge is the mean where every weight is 1/k
TIES_DENSITY = 0.2  # Yadav et al. 2023, "TIES-Merging": keep the top 20 %, weight 1, when nothing can be tuned


def model_recipes(family: Family) -> dict[str, Recipe]:
    """The base and the sources as they are, by their labels."""
    names = {model: f"source {name}" if name in RESERVED else name for model, name in labels(family.models).items()}
    names[family.base] = BASE
    return {
        names[model]: Recipe.model_validate(
            {
                "merge_method": "passthrough",
                "models": [{"model": model}],
                # An adapter's weights are float32 sums; they are shipped as the base is.
                **({"out_dtype": family.out_dtype} if "+" in model else {}),
            }
        )
        for model in family.models
    }


def plain_merges(family: Family) -> dict[str, Recipe]:
    """Uniform average of the sources, task arithmetic and TIES as published, untuned."""
    dtypes = {"dtype": "float32", "out_dtype": family.out_dtype}

    def merge(method: str, base: bool, **own: float) -> Recipe:
        models = [{"model": model, "parameters": own} for model in family.sources]
        return Recipe.model_validate(
            {
                "merge_method": METHODS[method].name,
                **({"base_model": family.base} if base else {}),
                "models": [*([{"model": family.base}] if base else []), *models],
                **dtypes,
            }
        )

    return {
        "uniform average": merge("linear", False, weight=1.0),
        f"task arithmetic, weight {TASK_ARITHMETIC_WEIGHT}": merge(
            "task_arithmetic", True, weight=TASK_ARITHMETIC_WEIGHT
        ),
        f"TIES, density {TIES_DENSITY}": merge("ties", True, weight=1.0, density=TIES_DENSITY),
    }


def opening_merge(space: SearchSpace, recipe: Recipe) -> str:
    """Which candidate that every search begins with, and which plain merge, the recipe is; "" for any other."""
    point = next((point for point in space.start if space.decode(point).digest == recipe.digest), None)
    if point is None:
        return ""
    values = space.named(point)
    method = str(values.get("method", space.spec.methods[0]))
    known = f"{method} with one weight for all sources"
    weights = [float(value) for name, value in values.items() if "weight" in name.split(".")[:2]]
    plain = space.spec.bounds.keys() <= {"weight"}  # nothing else is set that changes the merge
    share = 1 / len(space.spec.family.sources)
    if plain and weights and method in AVERAGING and all(near(weight, share) for weight in weights):
        return f"{known}, which is the uniform average"
    return known


def near(weight: float, other: float) -> bool:
    """Whether both are one weight in a recipe, where it is rounded."""
    return abs(weight - other) < 2 * 0.1**DECIMALS
