"""Several objectives: the trials that no other one beats on all tasks at once, and how much of the space they cover.

Both rest on noisy scores of the search documents: a front is the best of many draws in every direction, so it looks
wider and further out than it is, and some of its members would fall behind others on fresh documents. That is why its
members are scored on the selection documents too, and both numbers are shown.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.recipe import Recipe
from evolve.search.opening import START
from evolve.statistics.levels import FRONT_SHOWN
from evolve.trial import Trial
from tasks.objective import Measures, Objective, mean_over_tasks

Array = npt.NDArray[np.float64]
Parts = Mapping[str, float]  # task -> its part of the objective, higher is better

EXACT = 6  # tasks, at most, in which hypervolumes are taken
MOST = 32  # members that are scored on the selection documents; all are written


@dataclass(frozen=True)
class Member:
    """A recipe of the front: its parts on the search documents, and on the selection documents if it was scored there.

    `stands`: whether no other member beats it there.
    """

    name: str
    recipe: Recipe
    search: Parts
    selection: Parts | None = None
    stands: bool = False


@dataclass(frozen=True)
class Front:
    """`reference`: the point that the hypervolume is measured from, below which nothing counts; `hypervolume`: of the
    members on the search documents (None: of more than `EXACT` tasks it is not taken); `selected`: on the selection
    documents, of those that were scored there, from the same reference."""

    members: tuple[Member, ...]
    reference: Parts
    hypervolume: float | None
    selected: float | None = None


def not_dominated(values: Array) -> npt.NDArray[np.bool_]:
    """Which rows of (n, tasks), higher is better, no other row beats: none at least as good on all and better on one.

    Of equal rows the first one stands.
    """
    count = len(values)
    result = np.ones(count, dtype=bool)
    for place in range(count):
        no_worse = (values >= values[place]).all(axis=1)
        better = no_worse & (values > values[place]).any(axis=1)
        twins = no_worse & ~better
        result[place] = not better.any() and not twins[:place].any()
    return result


def front_of(trials: Sequence[Trial], tasks: Sequence[str]) -> list[Trial]:
    """The trials on the front, by id. Those that left a race early have not all documents and are not on it."""
    whole = [trial for trial in trials if trial.whole and trial.value is not None and set(tasks) <= trial.parts.keys()]
    if not whole:
        return []
    values = np.array([[trial.parts[task] for task in tasks] for trial in whole])
    return [trial for trial, stands in zip(whole, not_dominated(values), strict=True) if stands]


def spread_out(trials: Sequence[Trial], tasks: Sequence[str], most: int = MOST) -> list[Trial]:
    """`most` of a front's trials: those at the ends of every task, then those in the least crowded places.

    Crowding distances as in Deb et al. 2002 (NSGA-II), section III.B.
    """
    if len(trials) <= most:
        return list(trials)
    values = np.array([[trial.parts[task] for task in tasks] for trial in trials])
    distances = np.zeros(len(trials))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        width = column[order[-1]] - column[order[0]]
        distances[order[[0, -1]]] = np.inf
        if width > 0:
            distances[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / width
    chosen = sorted(np.argsort(-distances, kind="stable")[:most].tolist())
    return [trials[place] for place in chosen]


def lowest(points: Sequence[Parts], tasks: Sequence[str]) -> dict[str, float]:
    """Of every task the lowest part: of the base and the sources it is the reference of a hypervolume."""
    return {task: min(parts[task] for parts in points) for task in tasks}


def hypervolume(points: Sequence[Parts], reference: Parts) -> float:
    """The volume that the points dominate above the reference, exact.

    By WFG: While, Bradstreet and Barone 2012, "A fast way of calculating exact hypervolumes". The time grows
    exponentially with the number of tasks: a second for sixty points in five.
    """
    tasks = list(reference)
    values = np.array([[parts[task] - reference[task] for task in tasks] for parts in points]).reshape(-1, len(tasks))
    values = values[(values > 0).all(axis=1)]
    return wfg(values[not_dominated(values)]) if len(values) else 0.0


def wfg(points: Array) -> float:
    """Of points above the origin, none of which beats another: the sum of what each adds to those after it."""
    order = np.argsort(-points[:, -1], kind="stable")
    return sum(exclusive(points[order], place) for place in range(len(points)))


def exclusive(points: Array, place: int) -> float:
    """The volume of a point without what those after it cover: its box less that of their limits to it."""
    box = float(points[place].prod())
    rest = points[place + 1 :]
    if not len(rest):
        return box
    limited = np.minimum(rest, points[place])
    return box - wfg(limited[not_dominated(limited)])


def assembled(
    trials: Sequence[Trial],
    recipes: Mapping[str, Recipe],
    measures: Mapping[str, Measures],
    models: Sequence[Parts],
    objective: Objective,
) -> Front:
    """The front of these trials. `recipes` and `measures` (on the selection documents) by digest; `models`: the parts
    of the base and the sources on the search documents."""
    tasks = list(objective.weights)
    known = {trial.digest: parts_of(measures[trial.digest], objective) for trial in trials if trial.digest in measures}
    stands: dict[str, bool] = {}
    if known:
        values = np.array([[parts[task] for task in tasks] for parts in known.values()])
        stands = dict(zip(known, not_dominated(values).tolist(), strict=True))
    members = tuple(
        Member(
            trial.origin.removeprefix(START) if trial.origin.startswith(START) else f"trial {trial.id}",
            recipes[trial.digest],
            trial.parts,
            known.get(trial.digest),
            stands.get(trial.digest, False),
        )
        for trial in trials
    )
    reference = lowest(models or [trial.parts for trial in trials], tasks)
    searched = [trial.parts for trial in spread_out(trials, tasks)]
    few = len(tasks) <= EXACT
    return Front(
        members,
        reference,
        hypervolume(searched, reference) if few else None,
        hypervolume(list(known.values()), reference) if few and known else None,
    )


def parts_of(measures: Measures, objective: Objective) -> dict[str, float]:
    """Task -> its part of the objective."""
    utilities = objective.utilities(measures)
    return {task: mean_over_tasks({task: values}, {task: 1.0}) for task, values in utilities.items()}


def front_csv(front: Front) -> str:
    """A line a member: name, file, parts on both sets of documents, and whether it stands on the second."""
    tasks = list(front.reference)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = [f"{task} ({which})" for which in ("search", "selection") for task in tasks]
    writer.writerow(["name", "file", *head, "stands on selection"])
    for member in front.members:
        selection = member.selection or {}
        stands = "" if member.selection is None else str(member.stands).lower()
        parts = [member.search[task] for task in tasks] + [selection.get(task, "") for task in tasks]
        writer.writerow([member.name, file_of(member), *parts, stands])
    return out.getvalue()


def front_data(front: Front) -> dict[str, Any]:
    """What the report tells of a front. On record are only the members that it shows: a front may have hundreds."""
    return {
        "hypervolume": front.hypervolume,
        "selected": front.selected,
        "reference": dict(front.reference),
        "count": len(front.members),
        "members": [
            {
                "name": each.name,
                "search": dict(each.search),
                "selection": None if each.selection is None else dict(each.selection),
                "stands": each.stands,
            }
            for each in front.members[:FRONT_SHOWN]
        ],
    }


def file_of(member: Member) -> str:
    """The name of its recipe's file."""
    return member.name.replace(" ", "-").replace("/", "-").replace(",", "") + ".yaml"
