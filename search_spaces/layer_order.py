"""The order of layers as a space: which layers of which model, in which order, left out or repeated.

A candidate lets the data flow through whole layers as they are (Akiba et al. 2024, arXiv:2403.13187, section 3.2, "data
flow space"), so its recipe is a passthrough of slices. Where they lay out an indicator for every layer of every model,
genes here are edits of one model's own order: point by point most of them change nothing, one changes one thing, and
models that are good as they are stay one step away (structured rather than relaxed, as arXiv:2605.12326 advises).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from search_spaces.bounds import Range
from search_spaces.depth import Family, block_ranges
from search_spaces.gene import Gene, Value

ValueOf = Callable[[Gene], Value]

MAIN = "(main)"  # what a layer's own gene says where it comes from the model that the others come from
REPEAT_SCALE = Range(0.0, 1.0)
STARTS = 54  # edits of the models' own orders that a search begins with
CHANGES = 2.0  # genes that a first sample changes on the average


@dataclass(frozen=True)
class LayerOrder:
    """What may be done with layers. `rounds`: how often all layers are laid out, as they are in the first and not at
    all in the others at first. `repeats`: how often a layer stands in a row at most. `move`: by how many places.
    `scale`: of what later passes through a layer add. `writers`: parts of the names of tensors whose scale that is.
    """

    rounds: int = 1
    repeats: int = 2
    move: int = 3
    scale: Range | None = None
    writers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass:
    """One layer in the output: whose, which, and whether another one of that number came before it."""

    model: str
    layer: int
    later: bool


def order_recipe(order: LayerOrder, family: Family, names: Sequence[str], value_of: ValueOf) -> dict[str, Any]:
    """The passthrough recipe, as plain data in the dialect; `names` are the models' labels."""
    found = passes(order, family, names, value_of)
    scale = value_of(scale_gene(order.scale)) if order.scale else None
    own = [Pass(found[0].model, layer, False) for layer in range(family.layers)]
    if found == own:
        return untouched(found[0].model, family)
    slices = [entry(run, order, scale) for run in runs(found)]
    used = {each.model for each in found}
    return {
        "merge_method": "passthrough",
        "slices": slices,
        **({} if family.base in used else {"tokenizer_source": family.base}),
        "dtype": "float32",
        "out_dtype": family.out_dtype,
    }


def untouched(model: str, family: Family) -> dict[str, Any]:
    """The recipe of a model as it is."""
    return {
        "merge_method": "passthrough",
        "models": [{"model": model}],
        # An adapter's weights are float32 sums; they are shipped as the base is.
        **({"out_dtype": family.out_dtype} if "+" in model else {}),
    }


def passes(order: LayerOrder, family: Family, names: Sequence[str], value_of: ValueOf) -> list[Pass]:
    """The layers from bottom to top; where every layer would be left out, none is."""
    model_of = dict(zip(names, family.models, strict=True))
    main = model_of[str(value_of(main_gene(names)))]
    laid: list[tuple[str, int]] = []
    for turn in range(order.rounds):
        slots = []
        for layer in range(family.layers):
            times, move, origin = (int(value_of(times_gene(order, turn, layer))), 0, MAIN)
            if move_reach(order, family):
                move = int(value_of(move_gene(order, family, turn, layer)))
            if len(names) > 1:
                origin = str(value_of(from_gene(names, turn, layer)))
            # Moved by n places is past n others: half a place beyond the one that stands there.
            place = layer + move + 0.5 * ((move > 0) - (move < 0))
            slots.append((place, layer, times, main if origin == MAIN else model_of[origin]))
        laid += [(model, layer) for _, layer, times, model in sorted(slots) for _ in range(times)]
    if not laid:
        laid = [(main, layer) for layer in range(family.layers)]
    seen: Counter[int] = Counter()
    found = []
    for model, layer in laid:
        found.append(Pass(model, layer, seen[layer] > 0))
        seen[layer] += 1
    return found


def runs(found: Sequence[Pass]) -> Iterator[list[Pass]]:
    """Consecutive layers of one model, which make one slice."""
    run: list[Pass] = []
    for each in found:
        if run and (each.model, each.layer, each.later) != (run[-1].model, run[-1].layer + 1, run[-1].later):
            yield run
            run = []
        run.append(each)
    if run:
        yield run


def entry(run: Sequence[Pass], order: LayerOrder, scale: Value | None) -> dict[str, Any]:
    """One slice. What a layer adds to the stream is written by a few tensors: scaling them scales what it adds."""
    source: dict[str, Any] = {"model": run[0].model, "layer_range": [run[0].layer, run[-1].layer + 1]}
    if run[0].later and scale is not None:
        source["parameters"] = {"scale": [{"filter": writer, "value": scale} for writer in order.writers]}
    return {"sources": [source]}


def place_name(turn: int, layer: int) -> str:
    return f"layer_{layer}" if turn == 0 else f"round_{turn + 1}.layer_{layer}"


def main_gene(names: Sequence[str]) -> Gene:
    return Gene("from", choices=tuple(names), parameter="from")


def from_gene(names: Sequence[str], turn: int, layer: int) -> Gene:
    name = f"from.{place_name(turn, layer)}"
    return Gene(name, choices=(MAIN, *names), parameter="from", group="layers", position=layer)


def times_gene(order: LayerOrder, turn: int, layer: int) -> Gene:
    name = f"times.{place_name(turn, layer)}"
    return Gene(name, 0, order.repeats, integer=True, parameter="times", group="layers", position=layer)


def move_gene(order: LayerOrder, family: Family, turn: int, layer: int) -> Gene:
    reach = move_reach(order, family)
    name = f"move.{place_name(turn, layer)}"
    return Gene(name, -reach, reach, integer=True, parameter="move", group="layers", position=layer)


def move_reach(order: LayerOrder, family: Family) -> int:
    return min(order.move, family.layers - 1)


def scale_gene(scale: Range) -> Gene:
    return Gene("scale", scale.low, scale.high, parameter="scale")


def order_starts(order: LayerOrder, family: Family, names: Sequence[str]) -> list[dict[str, Value]]:
    """What the points to begin with change in the base as it is, each a mapping of genes to values: every model's own
    order, then each source's with one run of layers left out, in the next one's place, or repeated."""
    own: list[dict[str, Value]] = [{"from": name} for name in names]
    count = min(family.layers, max(2, STARTS // (3 * max(1, len(names) - 1))))
    ranges = [range(*each) for each in block_ranges(count, family.layers)]
    edits: list[dict[str, Value]] = []
    for run, following in zip(ranges, [*ranges[1:], range(0)], strict=True):
        edits.append({f"times.{place_name(0, layer)}": 0 for layer in run})
        if following and max(len(run), len(following)) <= move_reach(order, family):
            # One layer passes the next run by itself; of several each changes places.
            back = following if len(run) > 1 else range(0)
            moved: dict[str, Value] = {f"move.{place_name(0, layer)}": len(following) for layer in run}
            edits.append(moved | {f"move.{place_name(0, layer)}": -len(run) for layer in back})
        if order.repeats > 1:
            edits.append({f"times.{place_name(0, layer)}": 2 for layer in run})
    sources = names[1:]
    return [*own, *({"from": name, **edit} for edit in edits for name in sources)]


def edits_text(genes: Sequence[Gene], values: Mapping[str, Value]) -> str:
    """What a point changes, in words: `layers of sort, times.layer_3 0`."""
    changes = [f"{gene.name} {values[gene.name]}" for gene in genes if gene.group and values[gene.name] != usual(gene)]
    return ", ".join([f"layers of {values['from']}", *changes])


def usual(gene: Gene) -> Value:
    """What a gene says of a model as it is."""
    if gene.parameter == "times":
        return 0 if gene.name.startswith("times.round_") else 1
    if gene.parameter == "move":
        return 0
    if gene.parameter == "from":
        return gene.choices[0]
    return gene.from_unit(0.5)


def edit_deviations(genes: Sequence[Gene]) -> tuple[float, ...]:
    """The standard deviation of every gene, in units of its range, with which normal samples around the middle of a
    value's share change CHANGES of them on the average."""
    chance = min(0.5, CHANGES / len(genes))
    beyond = NormalDist().inv_cdf(1 - chance / 2)  # in standard deviations, on either side
    counts = [
        len(gene.choices) or int(gene.high - gene.low) + 1 if gene.choices or gene.integer else 0 for gene in genes
    ]
    return tuple(0.5 / (count * beyond) if count else 0.2 for count in counts)
