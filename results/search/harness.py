"""One arm on one family with one seed: what it may score, what that costs, and what its winner is worth.

    python results/search/harness.py CACHE --families B1 --arms random tpe --seeds 0 1 2

A (family, arm, seed) whose entry stands in raw/ is not run again, so runs can be spread over days.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arena import Answers, Arena, configuration, means
from arms import ARMS, ONLY_ASKED
from families import FAMILIES, Bench, family
from order import path_recipe
from recipes import Recipe, from_coefficients, untuned
from transformers.utils.logging import disable_progress_bar

HERE = Path(__file__).resolve().parent
REPORTED, ALL_FRESH = 1000, 4000  # documents a skill: of one seed's report, and of all of them (four are spare: a
# configuration has selection and report documents too)


class Reporter:
    """Scores on the fresh documents, which no arm sees. What was scored is kept in the cache."""

    def __init__(self, bench: Bench, cache: Path) -> None:
        self.bench, self.folder = bench, cache / bench.name / "fresh"
        self.folder.mkdir(exist_ok=True)
        sizes = {"search": ALL_FRESH, "selection": 2, "report": 2}
        self.answers = Answers(configuration(bench, 0, "fresh", sizes, cache / "runs"))

    def score(self, recipe: Recipe, seed: int | None) -> dict[str, float]:
        """By skill, on the seed's report documents; None: on all fresh ones."""
        count = ALL_FRESH if seed is None else REPORTED
        wanted = {skill: self.answers.order(skill, seed or 0)[:count] for skill in self.bench.skills}
        file = self.folder / f"{recipe.digest}.json"
        if file.exists():
            stored = json.loads(file.read_text())
            self.answers.learn(recipe, {skill: {int(i): v for i, v in own.items()} for skill, own in stored.items()})
        found = self.answers.score(recipe, wanted)
        if found is None:
            raise RuntimeError(f"{self.bench.name}: a recipe that was to be reported on cannot be scored")
        replace(file, json.dumps(self.answers.known[recipe.digest]))
        return means(found)

    def plain(self, seed: int) -> dict[str, float]:
        """Name -> mean over skills on the seed's report documents: untuned merges and, if it was found, the reference.

        Tuned plain merges are arms.
        """
        rows = untuned(self.bench)
        file = HERE / "references.json"
        references = json.loads(file.read_text()) if file.exists() else {}
        if self.bench.name in references:
            rows["reference"] = reference_recipe(self.bench, references[self.bench.name])
        return {name: float(np.mean(list(self.score(recipe, seed).values()))) for name, recipe in rows.items()}


def reference_recipe(bench: Bench, found: Mapping[str, Any]) -> Recipe:
    if "path" in found:
        return path_recipe(bench, found["path"])
    return from_coefficients(bench, found["coefficients"])


def replace(file: Path, text: str) -> None:
    """Write whole or not at all."""
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(text)
    part.replace(file)


def entries(name: str, arm: str) -> dict[str, Any]:
    """The arm's raw entries by seed."""
    file = HERE / "raw" / name / f"{arm}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def keep(name: str, arm: str, seed: int, entry: Mapping[str, Any]) -> None:
    file = HERE / "raw" / name / f"{arm}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = sorted({**entries(name, arm), str(seed): entry}.items(), key=lambda row: int(row[0]))
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rows)
    replace(file, f"{{\n{lines}\n}}\n")


def revision() -> str:
    command = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(bench: Bench, arm: str, seed: int, reporter: Reporter, cache: Path) -> dict[str, Any]:
    """Run the arm and score its winner."""
    arena = Arena(bench, seed, cache / "runs" / f"{bench.name}-{arm}-{seed}")
    began, worked = time.perf_counter(), time.process_time()
    found = ARMS[arm](arena)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    by_skill = reporter.score(found.recipe, seed)
    entry = {
        "report": round(float(np.mean(list(by_skill.values()))), 6),
        "skills": {skill: round(value, 4) for skill, value in by_skill.items()},
        "documents": arena.spent,
        "seconds": round(seconds, 1),
        "processor": round(worked, 1),
        "claims": found.claims,
        "notes": dict(found.notes),
        "revision": revision(),
        "recipe": found.recipe.model_dump(mode="json", exclude_none=True),
    }
    without_folders: dict[str, Any] = json.loads(json.dumps(entry).replace(f"{cache}/{bench.name}/", ""))
    return without_folders


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Run arms on families; what is there already is not run again.")
    parser.add_argument("cache", type=Path, help="folder for checkpoints, tasks and scores")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--arms", nargs="*", default=[arm for arm in ARMS if arm not in ONLY_ASKED])
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(10)))
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    disable_progress_bar()
    cache = parsed.cache.resolve()
    for name in parsed.families:
        bench = family(name, cache)
        reporter = Reporter(bench, cache)
        for seed in parsed.seeds:
            plain = reporter.plain(seed)
            keep(name, "plain", seed, {row: round(value, 6) for row, value in plain.items()})
            best = max((row for row in plain if row != "reference"), key=lambda row: plain[row])
            for arm in parsed.arms:
                if str(seed) in entries(name, arm):
                    continue
                entry = run(bench, arm, seed, reporter, cache)
                keep(name, arm, seed, entry)
                told = f"{entry['documents']} documents, {entry['seconds']} s; best plain {plain[best]:.4f} ({best})"
                print(f"{name} {arm} {seed}: {entry['report']:.4f}, {told}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
