"""The report's sections on the search: how it went, which genes mattered, and the front of several objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evolve.config.search_yaml import SearchConfig
from evolve.report.facts import Facts
from evolve.report.figures import Figures
from evolve.report.maximised import scoring_lines
from evolve.statistics.levels import FRONT_SHOWN, SURE

Told = dict[str, Any]  # `Verdict.as_dict()` and what the end adds to it


def search_text(facts: Facts) -> str:
    config, trials = facts.config, facts.trials
    failed = [trial for trial in trials if trial.failure]
    kinds = {trial.failure.kind for trial in failed if trial.failure}
    failures = f"{len(failed)} failed ({', '.join(sorted(kinds))})" if failed else "none failed"
    lines = [
        f"- {len(trials)} candidates, {failures}",
        *end_lines(facts.verdict),
        *document_lines(facts.verdict),
        f"- optimizer {config.search.optimizer}, methods {', '.join(config.space.method)}, seed {config.seed}",
        f"- base {config.models.base}; sources {', '.join(config.models.sources)}",
        *(f"- {line}" for line in scoring_lines(config.score, facts.figures.objective, facts.dtype)),
        *sample_lines(config),
        *mode_lines(config),
        *gap_lines(facts.verdict),
        *worth_lines(facts.verdict, facts.figures),
    ]
    for task, sets in facts.documents.items():
        sizes = ", ".join(f"{size} {name}" for name, size in sets.items())
        lines.append(f"- {task}: {sizes} documents, disjoint")
    return "\n".join(lines)


def end_lines(verdict: Told) -> list[str]:
    return [f"- ended: {verdict['ended']}"] if verdict.get("ended") else []


def sample_lines(config: SearchConfig) -> list[str]:
    """That candidates of different generations met other documents, where they did."""
    if config.search.sample is None:
        return []
    return [
        f"- each generation was scored on {config.search.sample} search documents of each task, drawn anew; its scores "
        "are given by the difference to a candidate that met them all, and compare only roughly with those of others"
    ]


def mode_lines(config: SearchConfig) -> list[str]:
    """That another run of the same search would differ, where it would."""
    if not config.search.asynchronous:
        return []
    return [
        "- asynchronous: points were proposed and told as workers became free, so that another run of this search.yaml "
        "would meet other candidates; this one's history is what the ledger holds"
    ]


def document_lines(verdict: Told) -> list[str]:
    """How many documents were scored, by what for."""
    counts: dict[str, int] = verdict.get("documents", {})
    if not counts:
        return []
    stages = ", ".join(f"{count} for {what}" for what, count in counts.items() if count)
    return [f"- {sum(counts.values())} documents scored, those on record already counted too: {stages}"]


def gap_lines(verdict: Told) -> list[str]:
    """What the tasks' parts were divided by, where they were."""
    if not verdict.get("gaps"):
        return []
    gaps = ", ".join(f"{task} {gap:.4g}" for task, gap in verdict["gaps"].items())
    return [
        "- normalised: each task's part is divided by its way from the base to the best source, or by two standard "
        f"errors where these are more: {gaps}"
    ]


def worth_lines(verdict: Told, figures: Figures) -> list[str]:
    """Whether the search was worth going on with, where it was asked."""
    worth = verdict.get("worth")
    if not worth or not worth["asked"]:
        return []
    plain = figures.objective.is_metric and not verdict.get("gaps")
    numbers = [f"{value:+.4f}" if not plain else figures.gap(value) for value in (worth["lead"], worth["gain"])]
    error = figures.metric(worth["error"]) if plain else f"{worth['error']:.4f}"
    ended = f"; a gain of {numbers[1]} was unlikely twice in a row" if worth["ended"] else ""
    often = "once" if worth["asked"] == 1 else f"{worth['asked']} times"
    return [
        f"- asked {often}, on {worth['documents']} selection documents, whether it had found more than "
        f"it began with: {numbers[0]} ± {error} the last time{ended}"
    ]


def gene_text(verdict: Told) -> str:
    """A table by groups of genes, or that nothing can be told."""
    genes: Sequence[Told] | None = verdict.get("genes")
    if genes is None:
        return ""
    if not genes:
        return "Cannot be told: too few candidates were scored, or they did not differ."
    gradients = any(each["gradient"] is not None for each in genes)
    head = ["genes", "how many", "share of the differences", "p", "says", *(["share of squared slopes"] * gradients)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for each in genes:
        told = each["p"] <= SURE
        cells = [
            each["group"],
            str(each["genes"]),
            f"{100 * each['share']:.0f} ± {100 * each['error']:.0f} %",
            f"{each['p']:.3f}",
            "mattered" if told else "cannot be told",
            *([f"{100 * (each['gradient'] or 0.0):.0f} %"] * gradients),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        "\nOf what differs between candidates of one generation, how much less can be predicted of a candidate without "
        "the group's genes (leave-one-out, ridge regression; one standard error). p is by permutation within "
        f"generations, corrected for the number of groups of a kind; above {SURE:g} nothing can be told, which does "
        "not mean that these genes do nothing: the search may not have moved them enough. Places over depth count the "
        "blocks of layers, or knots, from 0."
    )
    if gradients:
        lines.append(
            "\nThe share of squared slopes is what gradients saw of a group on their way, be it moved or not: "
            "where it is large, small changes matter."
        )
    return "\n".join(lines)


def front_text(verdict: Told) -> str:
    """The front's members on both sets of documents, and its hypervolume."""
    front = verdict.get("front")
    if not front:
        return ""
    members = front["members"]
    tasks = list(front["reference"])
    head = ["recipe", *(f"{task} (search)" for task in tasks), *(f"{task} (selection)" for task in tasks), "stands"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for each in members[:FRONT_SHOWN]:
        scored = each["selection"]
        cells = [f"{each['search'][task]:.4f}" for task in tasks]
        cells += ["" if scored is None else f"{scored[task]:.4f}" for task in tasks]
        stands = "" if scored is None else "yes" if each["stands"] else "no"
        lines.append(f"| {' | '.join([each['name'], *cells, stands])} |")
    left = front.get("count", len(members)) - min(len(members), FRONT_SHOWN)
    more = f" {left} more are in front.csv." if left else ""
    return "\n".join([*lines, "", hypervolume_text(front) + more])


def hypervolume_text(front: Told) -> str:
    reference = ", ".join(f"{task} {value:.4f}" for task, value in front["reference"].items())
    text = (
        "No member is better than another on all tasks of the search documents; parts of the objective, higher is "
        "better. Such a front is the luckiest of many draws in every direction: a member stands if none beats it on "
        "the selection documents either. The recipes are in front/."
    )
    if front["hypervolume"] is None:
        return text
    fresh = "" if front["selected"] is None else f" and {front['selected']:.5g} on the selection documents"
    return (
        f"{text} Hypervolume above the lowest of base and sources ({reference}): {front['hypervolume']:.5g} on the "
        f"search documents{fresh}."
    )
