"""The tables and the JSON of `evolve score`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evolve.statistics.comparison import LOGLIKELIHOOD, Comparison, Value, first_goals
from evolve.statistics.paired import Difference
from tasks.objective import Goal, Measures

CLAUSE = re.compile(r" \(|; ")
LARGE = 1e6  # from here on a number is printed with an exponent


@dataclass(frozen=True)
class Asked:
    """A task as it was asked: `documents` in all, with `num_fewshot` examples."""

    documents: int
    num_fewshot: int


@dataclass(frozen=True)
class Row:
    """A model that was scored, or the `error` that kept it from that; `cut`: documents that lost their beginning."""

    model: str
    label: str
    dtype: str | None = None
    max_length: int | None = None
    comparison: Comparison | None = None
    measures: Measures = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Result:
    """What is known so far; `against` labels the model that the others are compared with."""

    asked: Mapping[str, Asked]
    goals: Sequence[Goal]  # in the order of the table
    unit: str
    rows: Sequence[Row]
    against: str | None
    notes: Sequence[str]


def tables(result: Result) -> Iterator[str]:
    """Lines: a table for each task with one row a model, and one of means over tasks."""
    rows = [row for row in result.rows if row.comparison is not None]
    for task, asked in result.asked.items():
        if not any(row.comparison and task in row.comparison.tasks for row in rows):
            yield f"{task}: its metrics have no value"
            continue
        shown = _shown(result, rows, task)
        some_cut = any(row.cut.get(task) for row in rows)
        head = ["model", *(_heading(name, task, result) for name in shown)]
        compared = shown[0]
        head += [f"{_plain(compared)} less {result.against}'s (95 %)"] * (len(rows) > 1) + ["cut"] * some_cut
        body = []
        for row in rows:
            values = {} if row.comparison is None else row.comparison.tasks.get(task, {})
            cells = [row.label, *(_cell(values.get(name)) for name in shown)]
            cells += [_gap(values.get(compared))] * (len(rows) > 1)
            body.append(cells + [str(row.cut.get(task, 0))] * some_cut)
        documents = f"{asked.documents} document{'s' * (asked.documents != 1)}"
        yield f"{task}: {documents}, {asked.num_fewshot}-shot"
        yield from aligned([head, *body])
        yield ""
    yield from _means(result, rows)
    yield from (f"{row.label}: not scored" for row in result.rows if row.error)
    yield from (f"note: {note}" for note in result.notes)


def _means(result: Result, rows: Sequence[Row]) -> Iterator[str]:
    means = [(row.label, row.comparison.mean) for row in rows if row.comparison and row.comparison.mean]
    if not means:
        return
    yield f"mean over {len(first_goals(result.goals))} tasks of the first metric"
    head = ["model", "mean", *[f"mean less {result.against}'s (95 %)"] * (len(rows) > 1)]
    yield from aligned([head, *([label, _cell(mean), *[_gap(mean)] * (len(rows) > 1)] for label, mean in means)])
    yield ""


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows as lines, cells of a column beginning under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def line(row: Row, goals: Sequence[Goal]) -> str:
    """One model in one line: the first metric of every task."""
    if row.comparison is None:
        why = CLAUSE.split((row.error or "").removeprefix(f"{row.model}: "), maxsplit=1)[0]
        return f"{row.label}: {why}"  # the whole of it comes at the end
    first: dict[str, str] = {}
    for goal in goals:
        if goal.measure in row.comparison.tasks.get(goal.task, {}):
            first.setdefault(goal.task, goal.measure)
    parts = [f"{task} {_plain(name)} {_cell(row.comparison.tasks[task][name])}" for task, name in first.items()]
    return f"{row.label}: {', '.join(parts)} ({sum(row.seconds.values()):.1f} s)"


def as_json(result: Result, settings: Mapping[str, Any], *, complete: bool, samples: bool) -> dict[str, Any]:
    """Everything, as plain data; numbers that are not finite are null."""
    whole: dict[str, Any] = _finite(
        {
            "complete": complete,
            "settings": settings,
            "tasks": {
                task: asdict(asked)
                | {"metrics": {goal.measure: _facts(goal) for goal in result.goals if goal.task == task}}
                for task, asked in result.asked.items()
            },
            "compared_with": next((row.model for row in result.rows if row.label == result.against), None),
            "models": [_model(row, samples) for row in result.rows],
            "notes": list(result.notes),
        }
    )
    return whole


def _facts(goal: Goal) -> dict[str, Any]:
    return {
        "aggregation": goal.aggregation,
        "higher_is_better": goal.higher_is_better,
        "weight_of_task": goal.weight,
    }


def _model(row: Row, samples: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"model": row.model, "label": row.label, "error": row.error}
    if row.comparison is None:
        return record
    record |= {"dtype": row.dtype, "max_length": row.max_length, "seconds": dict(row.seconds)}
    record["mean"] = row.comparison.mean and _number(row.comparison.mean)
    record["tasks"] = {
        task: {
            "cut_documents": row.cut.get(task, 0),
            "metrics": {name: _number(value) for name, value in values.items() if name != LOGLIKELIHOOD},
            "loglikelihood": _number(values[LOGLIKELIHOOD]) if LOGLIKELIHOOD in values else None,
        }
        for task, values in row.comparison.tasks.items()
    }
    if samples:
        record["samples"] = {task: _by_document(measures) for task, measures in row.measures.items()}
    return record


def _by_document(measures: Mapping[str, Mapping[int, float]]) -> dict[str, dict[str, float]]:
    documents: dict[int, dict[str, float]] = {}
    for measure, values in measures.items():
        for document, value in values.items():
            documents.setdefault(document, {})[measure] = value
    return {str(document): documents[document] for document in sorted(documents)}


def _number(value: Value) -> dict[str, Any]:
    gap = None if value.difference is None else asdict(value.difference)
    return {"value": value.value, "stderr": value.standard_error, "difference": gap}


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _shown(result: Result, rows: Sequence[Row], task: str) -> list[str]:
    """The task's columns: its goals in their order, then what has no number for each document, then the likelihood."""
    found = [name for row in rows if row.comparison is not None for name in row.comparison.tasks.get(task, {})]
    goals = [goal.measure for goal in result.goals if goal.task == task]
    others = [name for name in dict.fromkeys(found) if name not in goals and name != LOGLIKELIHOOD]
    return [name for name in (*goals, *others, LOGLIKELIHOOD) if name in found]


def _heading(name: str, task: str, result: Result) -> str:
    if name == LOGLIKELIHOOD:
        return f"{name}/{result.unit}"
    lower = any(goal.task == task and goal.measure == name and not goal.higher_is_better for goal in result.goals)
    return _plain(name) + " (lower is better)" * lower


def _plain(name: str) -> str:
    return name.removesuffix(",none")


def _cell(value: Value | None) -> str:
    if value is None:
        return "-"
    return short(value.value) + ("" if value.standard_error is None else f" ± {short(value.standard_error)}")


def short(value: float, sign: str = "") -> str:
    """Four decimals, and what is too large for a column, such as a broken model's perplexity, as 1.174e+24."""
    return f"{value:{sign}.4f}" if abs(value) < LARGE or not math.isfinite(value) else f"{value:{sign}.4g}"


def _gap(value: Value | None) -> str:
    gap: Difference | None = None if value is None else value.difference
    return "" if gap is None else "{} ({} to {})".format(*(short(each, "+") for each in (gap.mean, gap.low, gap.high)))
