"""What the raw numbers say, family by family.

python results/search/report.py     # writes tables.md beside it
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
TUNED = ("greedy-soup", "task-arithmetic", "ties")  # arms that are plain merges: every other one has to beat them
RESAMPLES = 10_000
TIE = 0.0025  # points of a score: less is a tie
OPPONENTS = ("mergekit-evolve", "mergekit-evolve-task-arithmetic")
Entries = dict[str, dict[str, Any]]  # seed -> entry


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and the bounds of its 95 % percentile bootstrap interval over seeds."""
    seen, draws = np.array(values), np.random.default_rng(0)
    means = seen[draws.integers(seen.size, size=(RESAMPLES, seen.size))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(seen.mean()), float(low), float(high)


def shown(values: list[float], scale: float = 100.0) -> str:
    """Mean and interval; of fewer than three seeds only the mean."""
    mean, low, high = interval(values)
    if len(values) < 3:
        return f"{scale * mean:.2f}"
    return f"{scale * mean:.2f} [{scale * low:.2f}, {scale * high:.2f}]"


def read(folder: Path) -> dict[str, Entries]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def best_plain(arms: dict[str, Entries], seed: str) -> tuple[str, float]:
    """The strongest of what needs no search, on the seed's report documents."""
    rows = {name: value for name, value in arms["plain"][seed].items() if name != "reference"}
    rows |= {arm: arms[arm][seed]["report"] for arm in TUNED if seed in arms.get(arm, {})}
    name = max(rows, key=lambda row: rows[row])
    return name, rows[name]


def complete(arms: dict[str, Entries], seed: str) -> bool:
    """Whether all that needs no search has been scored with the seed."""
    return seed in arms["plain"] and all(seed in arms.get(arm, {}) for arm in TUNED)


def regret(arm: str, arms: dict[str, Entries], seed: str) -> float | None:
    """None where there is no reference above the best of what needs no search."""
    reference, best = arms["plain"][seed].get("reference"), best_plain(arms, seed)[1]
    if reference is None or reference <= best:
        return None
    return float((reference - arms[arm][seed]["report"]) / (reference - best))


def ratio(arm: str, rival: str, arms: dict[str, Entries], seeds: list[str]) -> str:
    """The arm's mean regret over the rival's, with its interval over seeds, the same ones for both."""
    pairs = np.array(
        [pair for seed in seeds if None not in (pair := (regret(arm, arms, seed), regret(rival, arms, seed)))], float
    )
    if len(pairs) < 3:
        return "-"
    draws = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    means = pairs[draws].mean(axis=1)
    low, high = np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975])
    return f"{pairs[:, 0].mean() / pairs[:, 1].mean():.2f} [{low:.2f}, {high:.2f}]"


def row(arm: str, arms: dict[str, Entries]) -> str:
    entries = arms[arm]
    seeds = [seed for seed in entries if complete(arms, seed)]
    points = [entries[seed]["report"] - best_plain(arms, seed)[1] for seed in seeds]
    regrets = [own for seed in seeds if (own := regret(arm, arms, seed)) is not None]
    against, share = "-", "-"
    rivals = [name for name in OPPONENTS if name in arms]
    shared = [seed for seed in seeds if all(seed in arms[name] for name in rivals)]
    means = {name: np.mean([arms[name][seed]["report"] for seed in shared]) for name in rivals if shared}
    rival = max(means, key=lambda name: means[name], default=arm)
    if rival != arm:
        gaps = [entries[seed]["report"] - arms[rival][seed]["report"] for seed in shared]
        wins, losses = sum(gap > TIE for gap in gaps), sum(gap < -TIE for gap in gaps)
        against = f"{shown(gaps)}; {wins}/{len(gaps) - wins - losses}/{losses}"
        share = ratio(arm, rival, arms, shared)
    claims = [(entries[seed]["claims"], gain > 0) for seed, gain in zip(seeds, points, strict=True)]
    made, true = sum(bool(claim) for claim, _ in claims), sum(bool(claim) and holds for claim, holds in claims)
    times = [entries[seed]["processor"] for seed in seeds if "processor" in entries[seed]]
    cells = [
        arm,
        str(len(seeds)),
        shown([entries[seed]["report"] for seed in seeds]),
        shown(points),
        shown(regrets, 1.0) if regrets else "-",
        share,
        against,
        f"{made}, {true}" if any(claim is not None for claim, _ in claims) else "-",
        f"{np.mean([entries[seed]['documents'] for seed in seeds]):.0f}",
        f"{np.median(times):.0f}" if times else "-",
    ]
    return "| " + " | ".join(cells) + " |"


def table(name: str, arms: dict[str, Entries]) -> str:
    searched = [arm for arm in arms if arm != "plain" and any(complete(arms, seed) for seed in arms[arm])]
    searched.sort(key=lambda arm: -float(np.mean([entry["report"] for entry in arms[arm].values()])))
    seeds = [seed for seed in arms["plain"] if complete(arms, seed)]
    lines = [f"## {name}", ""]
    for seed in seeds:
        best, value = best_plain(arms, seed)
        reference = arms["plain"][seed].get("reference")
        known = f"reference {100 * reference:.2f}" if reference is not None else "no reference yet"
        lines.append(f"- seed {seed}: best without a search {100 * value:.2f} ({best}), {known}")
    names = ("arm", "seeds", "report", "points", "regret", "over mergekit-evolve's",
             "against mergekit-evolve; wins/ties/losses", "claims, true", "documents", "processor, s")  # fmt: skip
    lines += ["", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join([*lines, *(row(arm, arms) for arm in searched)])


def untuned_table(name: str, arms: dict[str, Entries]) -> str:
    """Of a family whose tuned plain merges have not been run: points over the best of what is untuned."""
    lines = [f"## {name}", "", "Plain merges untuned; share: of the way from their best to the reference.", ""]
    names = ("arm", "seeds", "report", "points", "share", "95 % of the reference", "claims", "documents")
    lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    plain = arms["plain"]
    for arm, found in sorted(arms.items()):
        seeds = [seed for seed in found if arm != "plain" and seed in plain]
        if not seeds:
            continue
        best = {seed: max(value for key, value in plain[seed].items() if key != "reference") for seed in seeds}
        known = [seed for seed in seeds if "reference" in plain[seed]]
        shares = [
            (found[seed]["report"] - best[seed]) / (plain[seed]["reference"] - best[seed]) for seed in known
        ]  # fmt: skip
        close = sum(found[seed]["report"] >= 0.95 * plain[seed]["reference"] for seed in known)
        cells = [
            arm,
            str(len(seeds)),
            shown([found[seed]["report"] for seed in seeds]),
            shown([found[seed]["report"] - best[seed] for seed in seeds]),
            shown(shares, 1.0) if shares else "-",
            f"{close} of {len(known)}" if known else "-",
            f"{sum(bool(found[seed]['claims']) for seed in seeds)}",
            f"{np.mean([found[seed]['documents'] for seed in seeds]):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def front_table(name: str, arms: dict[str, Entries]) -> str:
    """Of the fronts: the volume that they dominate on the report documents."""
    lines = [
        f"## {name}",
        "",
        "| arm | seeds | hypervolume on the report documents | over the best other arm's | documents |",
        "|---|---|---|---|---|",
    ]
    for arm, found in arms.items():
        volumes = {seed: float(entry["hypervolume"]) for seed, entry in found.items()}
        others = [entries for other, entries in arms.items() if other != arm]
        ratios = [
            volume / max(entries[seed]["hypervolume"] for entries in others)
            for seed, volume in volumes.items()
            if all(seed in entries for entries in others)
        ]
        spent = np.mean([entry["documents"] for entry in found.values()])
        listed = ", ".join(f"{each:.4f}" for each in volumes.values())
        lines.append(f"| {arm} | {len(found)} | {listed} | {shown(ratios, 1)} | {spent:.0f} |")
    return "\n".join(lines)


def told(name: str, arms: dict[str, Entries]) -> str:
    if "plain" not in arms:
        return front_table(name, arms)
    return (table if any(complete(arms, seed) for seed in arms["plain"]) else untuned_table)(name, arms)


def main() -> None:
    folders = sorted(folder for folder in (HERE / "raw").iterdir() if folder.is_dir())
    tables = [told(folder.name, arms) for folder in folders if len(arms := read(folder)) > 1]
    notes = (
        "Made by `report.py` from `raw/`. Scores and points are hundredths; in brackets 95 % bootstrap intervals over"
        "\nseeds. `points`: over the best of base, sources, untuned and tuned plain merges on the same documents."
        "\n`regret`: 0 is the reference, 1 that best; then its mean over that of mergekit-evolve's better variant, and"
        "\nthe difference to that. `claims, true`: reports that claim a gain over all that they compared with, and"
        "\nhow many of these winners are also above the best without a search of this page, whose merges were tuned"
        "\nwith the whole budget each; whether reports are right about what they compared is in stated.json. Seeds:"
        "\nthose for which all tuned merges have been run, where any have."
    )
    (HERE / "tables.md").write_text("\n\n".join(["# Tables", notes, *tables]) + "\n")


if __name__ == "__main__":
    main()
