"""The report's sections on the end of a run: tasks one by one, floors, finalists, and the recipe made simpler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from evolve.report.figures import Figures
from evolve.search.baselines import BASE
from evolve.statistics.levels import ERRORS, LEAD_KEPT, LEVEL

Told = dict[str, Any]  # `Verdict.as_dict()` and what the end adds to it


def task_text(verdict: Told, figures: Figures) -> str:
    """The winner's gains over the strongest of the others and over the base, and what it lost."""
    gains: dict[str, list[Told]] = verdict.get("tasks", {})
    if not gains:
        return ""
    heads = [f"{words} {name}" for name in gains for words in ("gain over", "documents better / worse than")]
    lines = [f"| task | {' | '.join(heads)} |", f"|{'---|' * (1 + len(heads))}"]
    by_task: dict[str, list[str]] = {}
    for each in gains.values():
        for gain in each:
            cells = [figures.interval(gain["gain"]), f"{gain['wins']} / {gain['losses']} of {gain['documents']}"]
            by_task.setdefault(gain["task"], []).extend(cells)
    lines += [f"| {task} | {' | '.join(cells)} |" for task, cells in by_task.items() if len(cells) == len(heads)]
    return "\n".join([*lines, "", regressions(gains)])


def regressions(gains: dict[str, list[Told]]) -> str:
    """In words, the tasks whose interval lies below zero."""
    lost = {
        name: [gain["task"] for gain in each if gain["gain"]["high"] < 0]
        for name, each in gains.items()
        if name == BASE or BASE not in gains
    }
    told = [f"worse than {name} on {', '.join(tasks)}" for name, tasks in lost.items() if tasks]
    if told:
        return f"Regressions: the winner is {'; '.join(told)} (its 95 % interval lies below zero)."
    return f"No regression: on no task is the winner shown to be worse than {' or '.join(lost)}."


def floor_text(verdict: Told, figures: Figures) -> str:
    """What the report documents say of every floor."""
    floors: Sequence[Told] = verdict.get("floors", ())
    if not floors:
        return ""
    lines = ["| task | at most below the base | winner less base (95 % interval) | floor |", "|---|---|---|---|"]
    for each in floors:
        shown = figures.metric(each["floor"]), figures.interval(each["difference"])
        lines.append(f"| {each['task']} | {shown[0]} | {shown[1]} | {each['verdict']} |")
    lines.append(
        "\nThe winner was chosen among those that keep the floors on the selection documents. Kept and missed here "
        "means that the whole interval says so."
    )
    return "\n".join(lines)


def finalist_text(verdict: Told, figures: Figures, opening: str) -> str:
    finalists = verdict["finalists"]
    mixed = not figures.objective.is_metric or bool(verdict.get("gaps"))
    floors = any(each.get("violation") for each in finalists)
    head = ["finalist", "search documents", "selection documents"]
    head += ["objective (search)", "objective (selection)"] if mixed else []
    head += ["floors missed by"] if floors else []
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for finalist in finalists:
        cells = [finalist["name"], *(shown(finalist, name, figures) for name in ("search", "selection"))]
        values = [finalist["search"], finalist["selection"]] if mixed else []
        cells += ["" if value is None else f"{value:.4f}" for value in values]
        cells += [figures.metric(finalist["violation"]) if finalist["violation"] else ""] if floors else []
        lines.append(f"| {' | '.join(cells)} |")
    notes = [rested_text(finalists), dropped_text(verdict), optimism_text(verdict, figures, mixed)]
    if opening:
        notes.append(
            f"The winner is a candidate that the search began with: {opening}. Nothing that the search found "
            "afterwards was better on the selection documents."
        )
    return "\n\n".join(["\n".join(lines), *filter(None, notes)])


def rested_text(finalists: Sequence[Told]) -> str:
    """Why the first is not the highest, where it is not."""
    first, second = finalists[0], finalists[min(1, len(finalists) - 1)]
    floors = first.get("violation") != second.get("violation")
    if first.get("of") or floors or first["selection"] >= second["selection"]:
        return ""
    return (
        f"{first['name']} rests on the scores of many candidates; {second['name']}, a single one, is not better by a "
        "standard error of the paired difference."
    )


def dropped_text(verdict: Told) -> str:
    dropped = verdict.get("dropped", ())
    if not dropped:
        return ""
    names = ", ".join(f"{each['name']} ({each['documents']})" for each in dropped)
    return (
        f"Stopped early, after the documents in brackets, as clearly worse than the leader (one-sided, "
        f"{100 * float(verdict.get('level', LEVEL)):g} % at each look): {names}."
    )


def optimism_text(verdict: Told, figures: Figures, mixed: bool) -> str:
    """What the winner's score lost from the search to the report documents."""
    winner, row = verdict["finalists"][0], verdict["rows"][0]
    searched = next((each for each in verdict["finalists"] if each["name"] == winner.get("of")), winner)
    before, after = shown(searched, "search", figures), figures.mean(row["metrics"])
    if not before:
        return ""
    name = f"{searched['name']}, which the winner was made out of," if searched is not winner else ""
    first, then = (f"{name[0].upper()}{name[1:]}", "the winner ") if name else (f"The winner, {winner['name']},", "")
    by = " by the objective" if mixed else ""
    return (
        f"{first} scored {before} on the search documents and {then}{after} on the report "
        f"documents{loss(searched, row, figures, mixed)}; where the first is better, the difference is luck and "
        f"fitting. Finalists are ranked on the selection documents alone{by}."
    )


def loss(searched: Told, row: Told, figures: Figures, mixed: bool) -> str:
    """What the mean lost between the search and the report documents, where there is a mean; with the gap's standard
    error where the search's is one of the mean."""
    metrics = searched.get("metrics", {}).get("search")
    before = figures.objective.mean_metric(metrics) if metrics else searched["search"]
    if before is None or row["mean"] is None:
        return ""
    error = math.hypot(searched.get("error", 0.0), row["standard_error"])
    with_error = f"; optimism gap {figures.gap(before - row['mean'])} ± {figures.metric(error)}"
    told = searched.get("error") and not mixed and all(goal.higher_is_better for goal in figures.objective.goals)
    return f" ({figures.gap(row['mean'] - before)}{with_error if told else ''})"


def shown(finalist: Told, documents: str, figures: Figures) -> str:
    """A finalist's metric on one set, or nothing where it was not scored."""
    metrics = finalist.get("metrics", {}).get(documents)
    if metrics:
        return figures.mean(metrics)
    value = finalist[documents]  # of a ledger that holds no metrics of finalists
    return "" if value is None or not figures.objective.is_metric else figures.metric(value)


def simplification_text(verdict: Told, figures: Figures) -> list[str]:
    """What was tried to make the recipe simpler, and what of it was kept."""
    steps: Sequence[Told] = verdict.get("simplification", ())
    if not steps:
        return []
    mixed = not figures.objective.is_metric or bool(verdict.get("gaps"))

    def told(step: Told) -> str:
        if step["difference"] is None:
            return f"{step['step']} (failed)"
        if mixed:
            return f"{step['step']} ({step['difference']:+.4f} ± {step['error']:.4f})"
        return f"{step['step']} ({figures.gap(step['difference'])} ± {figures.metric(step['error'])})"

    taken = [told(step) for step in steps if step["kept"]]
    refused = [told(step) for step in steps if not step["kept"]]
    documents = sum(step["documents"] for step in steps)
    return [
        f"Made simpler on the selection documents as long as the score stayed within {ERRORS:g} standard error of the "
        f"winner's, paired, and at least {100 * LEAD_KEPT:.0f} % of its lead over the best baseline was left "
        f"({documents} documents scored). Taken: {'; '.join(taken) or 'nothing'}. Refused: "
        f"{'; '.join(refused) or 'nothing'}."
    ]
