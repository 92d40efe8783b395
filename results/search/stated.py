"""Does what the reports of our runs state hold? (B4, and the claims of B1 and C1)

    python results/search/stated.py CACHE [FAMILY ...]     # writes stated.json beside it

Every run's winner and the best of the others that its report names are scored on all 4,000 fresh documents a skill,
and the report's interval of the gain is held against what is found there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from families import FAMILIES, family
from harness import HERE, Reporter, entries
from recipes import Recipe
from transformers.utils.logging import disable_progress_bar


def restored(recipe: dict[str, Any], reporter: Reporter) -> Recipe:
    """A recipe of a raw entry with the cache's folders for the labels of models."""
    models = {Path(model).name: model for model in (reporter.bench.base, *reporter.bench.sources)}
    text = json.dumps(recipe)
    for label, folder in models.items():
        text = text.replace(f'"{label}"', f'"{folder}"')
    return Recipe.model_validate(json.loads(text))


def mean(reporter: Reporter, recipe: dict[str, Any]) -> float:
    return float(np.mean(list(reporter.score(restored(recipe, reporter), None).values())))


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Hold what reports state against fresh documents.")
    parser.add_argument("cache", type=Path)
    parser.add_argument("names", nargs="*", default=list(FAMILIES))
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    disable_progress_bar()
    rows: list[dict[str, Any]] = []
    for name in parsed.names:
        arms = [file.stem for file in sorted((HERE / "raw" / name).glob("ours*.json"))]
        reporter = Reporter(family(name, parsed.cache.resolve()), parsed.cache.resolve()) if arms else None
        for arm in arms if reporter else ():
            for seed, entry in entries(name, arm).items():
                gain = entry["notes"]["gain"]
                if entry["notes"]["best recipe"] is None:  # a start point of the space, whose entry holds no recipe
                    print(f"{name} {arm} {seed}: left out, since its strongest opponent is not on record")
                    continue
                truth = mean(reporter, entry["recipe"]) - mean(reporter, entry["notes"]["best recipe"])
                holds = gain["low"] <= truth <= gain["high"]
                rows.append({"family": name, "arm": arm, "seed": seed, **gain, "truth": round(truth, 5),
                             "holds": holds, "claims": entry["claims"], "true": truth > 0})  # fmt: skip
    (HERE / "stated.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    for arm in dict.fromkeys((row["family"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["family"], row["arm"]) == arm]
        error = np.mean([row["mean"] - row["truth"] for row in own])
        width = np.mean([(row["high"] - row["low"]) / 3.92 for row in own])
        held, claimed = sum(row["holds"] for row in own), sum(row["claims"] for row in own)
        true = sum(row["claims"] and row["true"] for row in own)
        print(f"{arm}: held {held}/{len(own)}, mean error {error / width:.2f} standard errors, "
              f"claimed {claimed}, true {true}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
