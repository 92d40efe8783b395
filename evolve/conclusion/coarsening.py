"""Simpler recipes out of one: without a source, with fewer blocks of layers, one value for module groups, rounder
numbers. Pure: recipes as plain data in the dialect in, plain data out; whether one is as good is for others to measure.

A value over depth is written as one slice a block (and then as `models`, where one block is left), a value by module
group as a list of filters, whose whole tensor names stand for what lies outside of the layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeGuard

from engine.methods import METHODS
from search_spaces.depth import Family
from search_spaces.space import DECIMALS

Data = dict[str, Any]  # a recipe, or a part of one
ORDER = "passthrough"  # the method of recipes that lay out layers as they are


def without(recipe: Data, model: str) -> Data | None:
    """The recipe without a source; None where it cannot do without."""
    result = copy.deepcopy(recipe)
    if METHODS[recipe["merge_method"]].inputs[1] is not None or recipe.get("base_model") == model:
        return None
    for entries in lists_of_models(result):
        entries[:] = [entry for entry in entries if entry["model"] != model]
        if not any(entry["model"] != recipe.get("base_model") for entry in entries):
            return None
    return None if result == recipe or result.get("tokenizer_source") == model else result


def sources_by_size(recipe: Data) -> list[str]:
    """The models that carry weights, the one with the smallest mean |weight| first."""
    sums: dict[str, list[float]] = {}
    for entries in lists_of_models(recipe):
        for entry in entries:
            numbers = [abs(value) for value in numbers_of(entry.get("parameters", {}).get("weight", []))]
            layers = entry["layer_range"][1] - entry["layer_range"][0] if "layer_range" in entry else 1
            sums.setdefault(entry["model"], []).extend(numbers * layers)
    return sorted((model for model in sums if sums[model]), key=lambda model: sum(sums[model]) / len(sums[model]))


def coarser(recipe: Data, family: Family) -> list[Data]:
    """The recipe with ever fewer blocks of layers, down to one: neighbours are joined that differ least.

    Ward's criterion (1963): the increase of the squared distance of layers to their block's mean. Empty where depth
    plays no part, or blocks are no runs of the same layers of all models.
    """
    if recipe["merge_method"] == ORDER:
        return []
    if "slices" not in recipe:
        flat = mapped(recipe, gradient_mean)
        return [tidy(flat, family)] if flat != recipe else []
    slices = copy.deepcopy(recipe["slices"])
    result: list[Data] = []
    while len(slices) > 1:
        costs = [distance(one, other, family) for one, other in pairwise(slices)]
        place = min(range(len(costs)), key=lambda index: costs[index])
        if costs[place] == float("inf"):
            break
        slices[place : place + 2] = [joined(slices[place], slices[place + 1], family)]
        result.append(tidy({**recipe, "slices": copy.deepcopy(slices)}, family))
    return result


def same_for_modules(recipe: Data, family: Family) -> Data:
    """One value for all module groups of a layer, the mean of theirs."""

    def flat(value: Any) -> Any:
        if not is_filtered(value):
            return value
        kept = [entry for entry in value if entry.get("filter") in family.outer]
        inside = [entry["value"] for entry in value if entry.get("filter") not in family.outer]
        return [*kept, {"value": mean_of(inside)}]

    return tidy(mapped(recipe, flat), family)


def same_outside(recipe: Data, family: Family) -> Data:
    """What lies outside of the layers as the layers' rest."""

    def flat(value: Any) -> Any:
        return [entry for entry in value if entry.get("filter") not in family.outer] if is_filtered(value) else value

    return tidy(mapped(recipe, flat), family)


def rounded(recipe: Data, decimals: int, family: Family) -> Data:
    """All numbers with so many decimals."""

    return tidy(mapped(recipe, lambda value: decimal(value, decimals)), family)


def decimal(value: Any, decimals: int) -> Any:
    if isinstance(value, float):
        return round(value, decimals) + 0.0  # no -0.0
    if isinstance(value, list):
        return [decimal(each, decimals) for each in value]
    return {**value, "value": decimal(value["value"], decimals)} if isinstance(value, dict) else value


def tidy(recipe: Data, family: Family) -> Data:
    """The same merge in fewer words: equal neighbours are one block, a single block is `models`, equal values one.

    Layers that are laid out as they are stay so: what their slices say holds for what layers write alone."""
    recipe = mapped(recipe, lambda value: shorter(decimal(value, DECIMALS)))
    if recipe["merge_method"] == ORDER:
        return recipe
    slices = recipe.get("slices", [])
    merged: list[Data] = []
    for each in slices:
        if merged and distance(merged[-1], each, family) == 0.0:
            merged[-1] = joined(merged[-1], each, family)
        else:
            merged.append(each)
    if len(merged) == 1 and all(each["layer_range"] == [0, family.layers] for each in merged[0]["sources"]):
        return mapped(as_models(recipe, merged[0]), shorter)
    return mapped({**recipe, **({"slices": merged} if merged else {})}, shorter)


def as_models(recipe: Data, block: Data) -> Data:
    """A recipe of one block that spans all layers."""
    models = [{key: value for key, value in each.items() if key != "layer_range"} for each in block["sources"]]
    parameters = {**recipe.get("parameters", {}), **block.get("parameters", {})}
    result: Data = {}
    for key, value in recipe.items():
        if key == "slices":
            result["models"] = models
        elif key != "parameters":
            result[key] = value
    return {**result, **({"parameters": parameters} if parameters else {})}


def joined(one: Data, other: Data, family: Family) -> Data:
    """Two neighbouring blocks as one, with the means of their values, weighted by layers."""
    sizes = [each["sources"][0]["layer_range"][1] - each["sources"][0]["layer_range"][0] for each in (one, other)]
    share = sizes[0] / sum(sizes)

    def blend(left: Data, right: Data) -> Data:
        found = {name: blended(left[name], right[name], share, family) for name in left}
        return {"parameters": found} if found else {}

    sources = [
        {
            "model": left["model"],
            "layer_range": [left["layer_range"][0], right["layer_range"][1]],
            **blend(left.get("parameters", {}), right.get("parameters", {})),
        }
        for left, right in zip(one["sources"], other["sources"], strict=True)
    ]
    return {"sources": sources, **blend(one.get("parameters", {}), other.get("parameters", {}))}


def distance(one: Data, other: Data, family: Family) -> float:
    """What joining two blocks costs (Ward); infinite where they cannot be joined."""
    left, right = one["sources"], other["sources"]
    if set(one) | set(other) > {"sources", "parameters"} or [s["model"] for s in left] != [s["model"] for s in right]:
        return float("inf")
    ranges = [each["layer_range"] for each in left], [each["layer_range"] for each in right]
    if any(first != ranges[0][0] for first in ranges[0]) or any(each != ranges[1][0] for each in ranges[1]):
        return float("inf")
    if ranges[0][0][1] != ranges[1][0][0]:
        return float("inf")
    squares = 0.0
    for before, after in ((one, other), *zip(left, right, strict=True)):
        squares += squared(before.get("parameters", {}), after.get("parameters", {}), family)
    layers, more = (each[0][1] - each[0][0] for each in ranges)
    return float(squares * layers * more / (layers + more))


def squared(one: Data, other: Data, family: Family) -> float:
    if one.keys() != other.keys():
        return float("inf")
    total = 0.0
    for name in one:
        left, right = (by_filter(value[name], family) for value in (one, other))
        for key in {*left, *right}:
            before, after = (each.get(key, each.get(None)) for each in (left, right))
            if is_number(before) and is_number(after):
                total += (before - after) ** 2
            elif before != after:
                return float("inf")
    return total


def by_filter(value: Any, family: Family) -> dict[Any, Any]:
    """The values inside of a layer by module group."""
    if not is_filtered(value):
        return {None: value}
    return {entry.get("filter"): entry["value"] for entry in value if entry.get("filter") not in family.outer}


def blended(one: Any, other: Any, share: float, family: Family) -> Any:
    """The mean of two settings; outside of the layers that of whichever has one."""
    if not is_filtered(one) and not is_filtered(other):
        return share * one + (1 - share) * other if is_number(one) and one != other else one
    left, right = by_filter(one, family), by_filter(other, family)
    groups = [key for key in dict.fromkeys([*left, *right]) if key is not None]
    kept = {
        entry["filter"]: entry
        for value in (other, one)
        if is_filtered(value)
        for entry in value
        if entry.get("filter") in family.outer
    }
    inside = {
        key: blended(left.get(key, left.get(None)), right.get(key, right.get(None)), share, family)
        for key in (*groups, None)
    }
    filters = [{"filter": key, "value": inside[key]} for key in groups]
    rest = [{"value": inside[None]}] if None in left or None in right else []
    return [*(kept[name] for name in family.outer if name in kept), *filters, *rest]


def shorter(value: Any) -> Any:
    """A list of filters without those that say what the last entry says of everything left."""
    if not is_filtered(value) or value[-1].get("filter") is not None:
        return value
    entries = list(value)
    while len(entries) > 1 and entries[-2]["value"] == entries[-1]["value"]:
        del entries[-2]
    return entries[0]["value"] if len(entries) == 1 else entries


def mapped(recipe: Data, change: Callable[[Any], Any]) -> Data:
    """The recipe with `change` applied to the value of every parameter."""

    def walk(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {
                key: {name: change(value) for name, value in part.items()} if key == "parameters" else walk(part)
                for key, part in node.items()
            }
        return [walk(each) for each in node] if isinstance(node, list) else node

    result: Data = walk(recipe)
    return result


def lists_of_models(recipe: Data) -> list[list[Data]]:
    if "models" in recipe:
        return [recipe["models"]]
    return [each["sources"] for each in recipe.get("slices", [])]


def numbers_of(value: Any) -> list[float]:
    if is_number(value):
        return [float(value)]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for each in values for number in numbers_of(each)]


def gradient_mean(value: Any) -> Any:
    """A list of numbers over depth as its mean."""
    if is_filtered(value):
        return [{**entry, "value": gradient_mean(entry["value"])} for entry in value]
    return mean_of(value) if isinstance(value, list) and all(map(is_number, value)) else value


def mean_of(values: Sequence[Any]) -> Any:
    flat = [mean_of(each) if isinstance(each, list) else each for each in values]
    return sum(flat) / len(flat) if all(map(is_number, flat)) else values[-1]


def is_filtered(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
