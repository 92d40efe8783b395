"""The space that search.yaml asks for, held against the models. Every refusal names its key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from engine.architecture import layer_counts
from engine.checkpoint import Checkpoint
from engine.errors import UnknownName
from engine.lookup import lookup
from engine.methods import METHODS
from engine.methods.method import Parameter
from evolve.config.forms import Interval, Order, Smooth
from evolve.config.space import Space
from evolve.errors import ConfigError
from search_spaces import SPACES
from search_spaces.assemble import SCALE, Spec, has_scale, pick_options
from search_spaces.bounds import Bounds, Choices, Fixed, Range
from search_spaces.depth import Family
from search_spaces.layer_order import REPEAT_SCALE, LayerOrder
from search_spaces.residual import residual_writers
from search_spaces.space import SearchSpace, search_space

T = TypeVar("T")

USUAL = (("self_attn", "self_attention", "attention", "attn"), ("mlp", "feed_forward", "ffn"))
"""What attention and the MLP are called in tensors' names."""


def spanned(wanted: Space, base: Checkpoint, family: Family, seed: int) -> SearchSpace:
    """Raises ConfigError for methods, parameters or layers that the models do not bear."""
    if wanted.order:
        return order_space(wanted.order, base, family, seed)
    for index, name in enumerate(wanted.method):
        named(METHODS, name, "merge method", f"space.method[{index}]")
    check_parameters(wanted)
    modules = usual_modules(wanted, base) if wanted.modules is None else wanted.modules
    check_modules(modules, base)
    check_factors(wanted)
    check_subset(wanted, family)
    kind, count = depth_of(wanted.layers)
    if kind == "blocks" and count > family.layers:
        raise ConfigError(f"space.layers: {count} blocks, but the models have {family.layers} layers")
    space = search_space(
        Spec(
            family=family,
            methods=wanted.method,
            depth=SPACES[kind],
            count=count,
            modules=modules,
            bounds={name: bounds_of(value) for name, value in wanted.parameters.items()},
            seed=seed,
            scale=range_of(wanted.scale, SCALE),
            negative=wanted.negative,
            subset=wanted.subset,
        )
    )
    if not space.genes:
        raise ConfigError("space: nothing is left to search; give a parameter a range {low, high}")
    return space


def order_space(wanted: bool | Order, base: Checkpoint, family: Family, seed: int) -> SearchSpace:
    """Raises ConfigError for models of several stacks, and for a scale that no recipe can express."""
    asked = wanted if isinstance(wanted, Order) else Order()
    if len(layer_counts(base.tensors)) != 1:
        raise ConfigError(f"space.order: {base.reference} has no single stack of layers, whose order could be searched")
    scale = range_of(asked.scale, REPEAT_SCALE) if asked.repeats > 1 or asked.rounds > 1 else None
    writers = residual_writers({name: info.shape for name, info in base.tensors.items()})
    if scale and not writers:
        raise ConfigError(
            f"space.order.scale: what a layer of {base.reference} adds cannot be scaled by single tensors; "
            "set it to false"
        )
    order = LayerOrder(asked.rounds, asked.repeats, asked.move, scale, writers)
    return search_space(Spec(family, ("passthrough",), SPACES["blocks"], 1, (), {}, seed, order=order))


def check_parameters(wanted: Space) -> None:
    rows = [parameter for name in wanted.method for parameter in METHODS[name].parameters]
    for name, value in wanted.parameters.items():
        named({row.name: row for row in rows}, name, "parameter", "space.parameters")
        for row in rows:
            if row.name == name:
                check_kind(row, bounds_of(value))


def usual_modules(wanted: Space, base: Checkpoint) -> tuple[str, ...]:
    """Attention and MLP by the names that they have in this model, where every layer has genes of its own."""
    found = [next((name for name in names if any(f".{name}." in tensor for tensor in base.tensors)), None)
             for names in USUAL]  # fmt: skip
    groups = tuple(name for name in found if name is not None)
    return groups if wanted.layers == "per_layer" and len(groups) == len(USUAL) else ()


def check_modules(modules: tuple[str, ...], base: Checkpoint) -> None:
    for name in modules:
        if not any(name in tensor for tensor in base.tensors):
            raise ConfigError(
                f"space.modules: no tensor of {base.reference} has {name!r} in its name; "
                "name a part of tensors' names, such as self_attn or mlp"
            )


def check_factors(wanted: Space) -> None:
    scaled = [name for name in METHODS if has_scale(METHODS[name])]
    for key, value in (("scale", wanted.scale), ("negative", wanted.negative)):
        if value and not set(wanted.method) & set(scaled):
            raise ConfigError(
                f"space.{key}: {', '.join(wanted.method)} merges no task vectors; leave it out, or take one of "
                f"{', '.join(scaled)}"
            )
    weight = wanted.parameters.get("weight")
    if wanted.negative and isinstance(weight, Interval) and weight.low >= 0:
        raise ConfigError(
            f"space.negative: weights go below 0, and space.parameters.weight.low ({weight.low:g}) says that they do "
            "not; leave one of them out"
        )
    if wanted.scale and "lambda" in wanted.parameters:
        raise ConfigError(
            "space.scale: is lambda in recipes, which space.parameters sets as well; leave one of them out"
        )


def check_subset(wanted: Space, family: Family) -> None:
    if not wanted.subset:
        return
    if len(family.sources) < 2:
        raise ConfigError("space.subset: there is one source only, which always takes part; leave it out")
    if all(pick_options(METHODS[name], family) for name in wanted.method):
        raise ConfigError(
            f"space.subset: {', '.join(wanted.method)} takes a fixed number of models and has a gene that picks them; "
            "leave it out"
        )


def named(table: Mapping[str, T], name: str, what: str, where: str) -> T:
    """`lookup`, with the key of search.yaml that holds the name. Raises ConfigError."""
    try:
        return lookup(table, name, what)
    except UnknownName as error:
        raise ConfigError(f"{where}: {error}") from None


def check_kind(parameter: Parameter, bounds: Bounds) -> None:
    """Raises ConfigError for a value that is of another kind than the parameter, or that it cannot have."""
    where = f"space.parameters.{parameter.name}"
    if isinstance(bounds, Range) and parameter.kind is bool:
        raise ConfigError(f"{where}: is true or false and has no range; fix it, or choose with [true, false]")
    if isinstance(bounds, Range):
        values: tuple[Any, ...] = (bounds.low, bounds.high)
    else:
        values = bounds.values if isinstance(bounds, Choices) else (bounds.value,)
    for value in values:
        if isinstance(value, str) or isinstance(value, bool) != (parameter.kind is bool):
            wanted = "true or false" if parameter.kind is bool else "a number, a range {low, high} or a list of numbers"
            raise ConfigError(f"{where}: {value!r} cannot be its value; give {wanted}")
        try:
            parameter.typed(value)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None


def depth_of(layers: Any) -> tuple[str, int]:
    """`space.layers` as a row of SPACES and its count."""
    if isinstance(layers, Smooth):
        return "smooth", layers.smooth
    return ("per_layer", 0) if layers == "per_layer" else ("blocks", int(layers))


def bounds_of(value: Any) -> Bounds:
    if isinstance(value, Interval):
        return Range(value.low, value.high)
    return Choices(tuple(value)) if isinstance(value, list) else Fixed(value)


def range_of(value: bool | Interval, usual: Range) -> Range | None:
    """A key that takes true (`usual`), false or a range of the user's own."""
    if isinstance(value, Interval):
        return Range(value.low, value.high)
    return usual if value else None
