"""A recipe's parameter values: scalars, gradients over the layers, filters on tensor names, and who wins.

A *setting* is one of
    0.5                                             a scalar
    [0.0, 0.5, 1.0]                                 a gradient: interpolated over the layers of a slice
    {filter: mlp, value: 0.5}                       for the tensors whose name contains `mlp`
    [{filter: mlp, value: [0, 1]}, {value: 0.5}]    first match wins; no filter matches everything

The dialect is mergekit's (its documentation of parameters, filters and gradients).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from engine.errors import shown

Scalar: TypeAlias = "bool | int | float"
Setting: TypeAlias = Any
"""Plain YAML data that `check_setting` has accepted; never modified."""

_WORDS = {"true": True, "false": False}


def check_setting(setting: Any) -> Setting:
    """Return the setting in plain form: numbers parsed, tuples as lists.

    Raises ValueError for text that is no number, non-finite numbers, empty lists and malformed filters.
    """
    if isinstance(setting, Mapping):
        return _check_filtered(setting)
    if isinstance(setting, (list, tuple)):
        if any(isinstance(item, Mapping) for item in setting):
            return [_check_filtered(i if isinstance(i, Mapping) else {"value": i}) for i in setting]
        return _check_value(setting)
    return _check_scalar(setting)


def _check_filtered(mapping: Mapping[str, Any]) -> dict[str, Any]:
    if "value" not in mapping or not mapping.keys() <= {"filter", "value"}:
        raise ValueError(
            f"{shown(dict(mapping))} is no filter; write {{filter: part of a tensor's name, value: number}}"
        )
    kept: dict[str, Any] = {}
    wanted = mapping.get("filter")
    if wanted is not None:
        if not isinstance(wanted, str):
            raise ValueError(f"the filter {shown(wanted)} is no text; write a part of a tensor's name")
        kept["filter"] = wanted
    return kept | {"value": _check_value(mapping["value"])}


def _check_value(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return _check_scalar(value)
    if not value:
        raise ValueError("an empty list has no value; give a number or a list of numbers")
    return [_check_scalar(item) for item in value]


def _check_scalar(value: Any) -> Scalar:
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        if value.strip().lower() in _WORDS:
            return _WORDS[value.strip().lower()]
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"{shown(value)} is not a number, true or false") from None
    if not isinstance(value, (bool, int, float)):
        raise ValueError(f"{shown(value)} is not a number, true or false")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floating-point numbers
        finite = False
    if not finite:
        raise ValueError(f"{shown(value)} is not finite")
    return value


def gradient_position(layer: int | None, layers: int) -> float:
    """Return where a tensor stands in its slice's gradients, from 0 to 1.

    `layer` counts within the slice of `layers` layers; None is a tensor outside the layers (embeddings, final
    norm, head), which takes the first value. A slice of one layer takes the last value.
    """
    if layer is None:
        return 0.0
    return layer / (layers - 1) if layers > 1 else 1.0


def interpolate(value: Scalar | list[Scalar], position: float) -> Scalar:
    """Return the value of a scalar or a gradient at `position` in [0, 1]; booleans step, numbers interpolate."""
    if not isinstance(value, list):
        return value
    place = position * (len(value) - 1)
    low = min(int(place), len(value) - 1)
    if isinstance(value[low], bool):
        return value[low]
    high = min(low + 1, len(value) - 1)
    if value[low] == value[high]:
        return value[low]  # the sum below may differ from it in the last bit
    part = place - low
    return (1.0 - part) * value[low] + part * value[high]


def evaluate(setting: Setting, name: str, position: float) -> Scalar | None:
    """Return the setting's value for the tensor `name`, or None when none of its filters matches."""
    if isinstance(setting, dict):
        wanted = setting.get("filter")
        if wanted is None or wanted == "*" or wanted in name:
            return interpolate(setting["value"], position)
        return None
    if isinstance(setting, list) and isinstance(setting[0], dict):
        for item in setting:
            value = evaluate(item, name, position)
            if value is not None:
                return value
        return None
    return interpolate(setting, position)


def first_value(levels: Iterable[Mapping[str, Setting]], parameter: str, name: str, position: float) -> Scalar | None:
    """Return the value at the first level that has one for this tensor (source > slice > top), else None."""
    for level in levels:
        if parameter in level:
            value = evaluate(level[parameter], name, position)
            if value is not None:
                return value
    return None
