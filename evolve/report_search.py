"""The report's sections on what the search saw: which genes mattered, and the front of several objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evolve.levels import FRONT_SHOWN, SURE

Told = dict[str, Any]  # `Verdict.as_dict()` and what the end adds to it


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
