"""One walk over a method's parameters, used twice: to collect the genes, and to write their values down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any

from engine.methods import METHODS
from engine.methods.method import Method, Parameter
from search_spaces.bounds import Bounds, Choices, Fixed, Range, effective
from search_spaces.depth import Assembly, Depth, Family, Stack
from search_spaces.gene import Gene, Value
from search_spaces.layer_order import LayerOrder, order_recipe

ValueOf = Callable[[Gene], Value]

SCALE = Range(0.3, 2.5)  # published optima have weights that sum to about 2 (Akiba et al. 2024, arXiv:2403.13187)


@dataclass(frozen=True)
class Spec:
    """What spans a space: models, methods, places over depth, module groups and the parameters' bounds.

    `scale`: of the factor of the merged task vector, where that has a gene. `negative`: weights of task vectors go as
    far below zero as above. `subset`: whether a source takes part is a gene. `order`: a space of its own, which looks
    at nothing else but the family.
    """

    family: Family
    methods: tuple[str, ...]
    depth: Depth
    count: int
    modules: tuple[str, ...]
    bounds: Mapping[str, Bounds]
    seed: int
    scale: Range | None = None
    negative: bool = False
    subset: bool = False
    order: LayerOrder | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the models, the base first."""
        return tuple(labels(self.family.models).values())

    @cached_property
    def positions(self) -> tuple[str, ...]:
        return self.depth.positions(self.count, self.family.layers)

    @property
    def groups(self) -> tuple[tuple[str | None, str], ...]:
        """(filter in recipes, name in genes) of the groups inside a layer: the modules, then the rest."""
        return (*((name, name) for name in self.modules), (None, "rest" if self.modules else "layers"))


def labels(models: tuple[str, ...]) -> dict[str, str]:
    """Short distinct names of models for genes and tables: a path's last part, numbered where it repeats."""
    result: dict[str, str] = {}
    for model in models:
        last = model.split("+")[-1].split("@")[0].rstrip("/")
        stem = PurePosixPath(last).name or model
        result[model] = stem if stem not in result.values() else f"{stem}-{len(result)}"
    return result


def recipe_of(spec: Spec, value_of: ValueOf) -> dict[str, Any]:
    """The recipe, as plain data in the dialect, whose genes have the values that `value_of` gives."""
    if spec.order:
        return order_recipe(spec.order, spec.family, spec.labels, value_of)
    name = spec.methods[0]
    if len(spec.methods) > 1:
        name = str(value_of(Gene("method", choices=spec.methods, parameter="method")))
    return recipe_with(spec, name, value_of)


def recipe_with(spec: Spec, name: str, value_of: ValueOf) -> dict[str, Any]:
    """`recipe_of` for the one method `name`."""
    method = METHODS[name]
    models = chosen_models(spec, name, value_of)
    whole: dict[str, Value] = {}
    shared: dict[str, Stack] = {}
    own: dict[str, dict[str, Stack]] = {model: {} for model in models}
    for parameter in method.parameters:
        bounds = bounds_in(spec, method, parameter)
        if parameter.name == "lambda" and spec.scale:
            whole["lambda"] = value_of(Gene("scale", spec.scale.low, spec.scale.high, parameter="lambda"))
        elif isinstance(bounds, Choices):
            whole[parameter.name] = value_of(Gene(parameter.name, choices=bounds.values, parameter=parameter.name))
        elif bounds == Fixed(None):
            continue
        elif isinstance(bounds, Fixed):
            whole[parameter.name] = bounds.value  # type: ignore[assignment]
        elif parameter.kind is int:  # interpolated over depth it would be no whole number
            whole[parameter.name] = value_of(
                Gene(parameter.name, bounds.low, bounds.high, integer=True, parameter=parameter.name)
            )
        elif parameter.scope == "shared":
            shared[parameter.name] = stack(spec, name, parameter, None, bounds, value_of)
        else:
            for model in owners(method, parameter, models):
                own[model][parameter.name] = stack(spec, name, parameter, model, bounds, value_of)
    parts = spec.depth.lay_out(Assembly(tuple(own.items()), shared), spec.family, spec.count)
    parameters = {**whole, **parts.pop("parameters", {})}
    return {
        "merge_method": name,
        **({"base_model": models[0]} if len(models) > 1 else {}),
        **parts,
        **({"parameters": parameters} if parameters else {}),
        # Candidates are asked with the base's tokenizer and template, so the merge that is written carries them.
        **({} if spec.family.base in models else {"tokenizer_source": spec.family.base}),
        "dtype": "float32",  # mergekit then computes as we do: float32 inside, rounded once at the end
        "out_dtype": spec.family.out_dtype,
        "seed": spec.seed,
    }


def stack(spec: Spec, method: str, parameter: Parameter, model: str | None, bounds: Range, value_of: ValueOf) -> Stack:
    """The values of one parameter (of one model) over groups and depth, each from a gene of its own."""

    label = labels(spec.family.models)[model] if model else ""
    apart = method if ambiguous(spec, parameter) else ""

    def at(group: str, place: int | None) -> Value:
        position = spec.positions[place] if place is not None and len(spec.positions) > 1 else ""
        name = ".".join(part for part in (apart, parameter.name, label, group, position) if part)
        gene = Gene(
            name,
            bounds.low,
            bounds.high,
            parameter=parameter.name,
            model=label,
            group=group,
            position=place,
            method=apart,
        )
        return value_of(gene)

    groups = tuple(
        (filter_, tuple(at(group, place) for place in range(len(spec.positions)))) for filter_, group in spec.groups
    )
    return Stack(outer=at("outer", None), groups=groups)


def ambiguous(spec: Spec, parameter: Parameter) -> bool:
    """Whether the searched methods differ on the parameter's bounds, so that each needs genes of its own."""
    methods = [METHODS[name] for name in spec.methods]
    rows = ((method, row) for method in methods for row in method.parameters if row.name == parameter.name)
    ranges = [bounds for bounds in (bounds_in(spec, *row) for row in rows) if isinstance(bounds, Range)]
    return any(bounds != ranges[0] for bounds in ranges)


def chosen_models(spec: Spec, name: str, value_of: ValueOf) -> tuple[str, ...]:
    """The recipe's models, base first. A method of one model or of a pair has a gene that picks them."""
    options = pick_options(METHODS[name], spec.family)
    if not options:
        return (spec.family.base, *taken(spec, METHODS[name], value_of))
    return options[str(value_of(picker(name, options)))]


def taken(spec: Spec, method: Method, value_of: ValueOf) -> tuple[str, ...]:
    """The sources that take part: all of them where their genes would leave fewer than the method needs, or none."""
    sources = spec.family.sources
    if not spec.subset:
        return sources
    names = labels(spec.family.models)
    genes = [
        Gene(f"take.{names[each]}", choices=(True, False), parameter="take", model=names[each]) for each in sources
    ]
    chosen = tuple(source for source, gene in zip(sources, genes, strict=True) if value_of(gene))
    return chosen if len(chosen) >= max(1, method.inputs[0]) else sources


def picker(name: str, options: Mapping[str, tuple[str, ...]]) -> Gene:
    """The gene that picks the models of the method `name`."""
    return Gene(f"{name}.models", choices=tuple(options), parameter="models", method=name)


def pick_options(method: Method, family: Family) -> dict[str, tuple[str, ...]]:
    """What a method with a fixed number of models can be given, by label; empty where it takes them all.

    A method that can do without a base is given the family's, and merges task vectors of the others.
    """
    if method.inputs[1] is None:
        return {}
    names = labels(family.models)
    if method.base == "optional":
        picks = [(family.base, *pick) for pick in combinations(family.sources, method.inputs[1])]
    else:
        picks = list(combinations(family.models, method.inputs[1] + (method.base == "required")))
    return {"+".join(names[model] for model in pick): pick for pick in picks}


def bounds_in(spec: Spec, method: Method, parameter: Parameter) -> Bounds:
    """What the space does with a parameter of one of its methods."""
    bounds = effective(parameter, spec.bounds)
    signed = spec.negative and parameter.name == "weight" and has_scale(method)
    if signed and isinstance(bounds, Range) and bounds.low >= 0:
        return Range(-bounds.high, bounds.high)
    return bounds


def has_scale(method: Method) -> bool:
    """Whether the method weighs task vectors and has a factor of their sum."""
    return any(parameter.name == "lambda" for parameter in method.parameters)


def owners(method: Method, parameter: Parameter, models: tuple[str, ...]) -> tuple[str, ...]:
    """The models that carry a value of their own of a per-model parameter: all, or all but the base."""
    return models[1:] if parameter.scope == "non_base" else models
