"""Recipes that arms share: plain merges, and weights of every source over depth and module groups."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from families import Bench

from engine.recipe import Recipe

GROUPS = ("self_attn", "mlp", "")  # of a layer's tensors, by part of their names; "": the rest, which are its norms
OUTER = ("model.embed_tokens.weight", "model.norm.weight")
STRENGTHS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)
DENSITIES, TIES_STRENGTHS = (0.2, 0.5, 0.8), (0.15, 0.3, 0.6, 1.0)
Values = Mapping[str, float]  # a parameter's value of one source in one place, by parameter


def recipe(bench: Bench, method: str, body: dict[str, Any], **parameters: Any) -> Recipe:
    plain = {
        "merge_method": method,
        **({"base_model": bench.base} if method not in ("linear", "passthrough") else {}),
        **body,
        **({"parameters": parameters} if parameters else {}),
        "dtype": "float32",
        "out_dtype": "bfloat16",
    }
    return Recipe.model_validate(plain)


def alone(bench: Bench, model: str) -> Recipe:
    """A model as it is."""
    return recipe(bench, "passthrough", {"models": [{"model": model}]})


def uniform(bench: Bench, method: str, values: Values, sources: Sequence[str] = (), **shared: Any) -> Recipe:
    """The same values for all of the sources, or for those named."""
    models = [{"model": source, "parameters": dict(values)} for source in sources or bench.sources]
    body = models if method == "linear" else [{"model": bench.base}, *models]
    return recipe(bench, method, {"models": body}, **shared)


def average(bench: Bench, sources: Sequence[str] = ()) -> Recipe:
    return uniform(bench, "linear", {"weight": 1.0}, sources)


def task_arithmetic(bench: Bench, strength: float) -> Recipe:
    return uniform(bench, "task_arithmetic", {"weight": strength})


def ties(bench: Bench, density: float, strength: float) -> Recipe:
    """The dialect's TIES with normalized weights; its strength is the factor of the merged task vector."""
    return uniform(bench, "ties", {"weight": 1.0, "density": density}, normalize=True, **{"lambda": strength})


def dare(bench: Bench) -> Recipe:
    """DARE-TIES with half of the parameters dropped and weights of 1/k."""
    return uniform(bench, "dare_ties", {"weight": 1 / len(bench.sources), "density": 0.5}, normalize=False)


def untuned(bench: Bench) -> dict[str, Recipe]:
    """What one has without any scoring, by name: each model alone, and merges with their usual settings."""
    rows = {"base": alone(bench, bench.base)}
    rows |= {f"source {Path(source).name}": alone(bench, source) for source in bench.sources}
    return rows | {"uniform average": average(bench), "DARE-TIES": dare(bench)}


def over_depth(
    bench: Bench,
    method: str,
    layers: Sequence[Mapping[str, Sequence[Values]]],
    outer: Sequence[Values] | None = None,
    **shared: Any,
) -> Recipe:
    """`layers[block][group][source]` are a source's values; blocks of equal length, `outer` for what is in no layer.

    A block's only group may be "" for all of its tensors. Without `outer` the first and the last block's hold there.
    """
    each = bench.layers // len(layers)
    slices = []
    for place, groups in enumerate(layers):
        span = [place * each, (place + 1) * each]
        sources: list[dict[str, Any]] = [{"model": bench.base, "layer_range": span}]
        for index, source in enumerate(bench.sources):
            names = list(next(iter(groups.values()))[index])
            settings: dict[str, Any] = {}
            for name in names:
                values: list[dict[str, Any]] = []
                if outer is not None and place in (0, len(layers) - 1):
                    values += [{"filter": tensor, "value": number(outer[index][name])} for tensor in OUTER]
                values += [{"filter": g, "value": number(v[index][name])} for g, v in groups.items() if g]
                values += [{"value": number(v[index][name])} for g, v in groups.items() if not g]
                settings[name] = values
            sources.append({"model": source, "layer_range": span, "parameters": settings})
        slices.append({"sources": sources})
    return recipe(bench, method, {"slices": slices}, **shared)


def number(value: float) -> float:
    return round(float(value), 4)


def from_coefficients(bench: Bench, coefficients: Sequence[Sequence[float]]) -> Recipe:
    """Task arithmetic of `coefficients[source][layer * 3 + group]`, the last of each source for what is in no layer."""

    def column(index: int) -> list[Values]:
        return [{"weight": own[index]} for own in coefficients]

    layers = [{group: column(3 * layer + g) for g, group in enumerate(GROUPS)} for layer in range(bench.layers)]
    return over_depth(bench, "task_arithmetic", layers, column(3 * bench.layers))
