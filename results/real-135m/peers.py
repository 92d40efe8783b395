"""mergekit-evolve's search on the real 135M family, with the budget of search.yaml, by our scorer.

    python results/real-135m/peers.py FAMILY --work DIR [--arms mergekit-evolve-task-arithmetic] [--seeds 0 1 2]

Writes seed-N/<arm>.json: the winner's recipe and what it cost. The arms are those of results/search: a budget of 40
candidates of 100 documents a task, the layers in three groups. What stands there is not run again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from run import HERE, options, prepared

sys.path.insert(0, str(HERE.parent / "search"))
from arena import Answers, Arena
from arms import ARMS
from families import Bench
from recipes import Recipe

from evolve.config.search_yaml import SearchConfig, load_config
from evolve.preparation.setting import Setting

PEERS = ("mergekit-evolve-task-arithmetic", "mergekit-evolve")
CANDIDATES, EACH = 40, 100  # documents a task


class Real(Arena):
    """A seed's candidates are scored on the first EACH search documents of every task, in its order."""

    def __init__(self, config: SearchConfig) -> None:
        models, score = config.models, config.score
        skills = tuple(task.task.split("_", 1)[1] for task in score.tasks)
        layers = Setting(config).family.layers
        bench = Bench("real-135m", models.base, models.sources, skills, score.include[0], layers)
        super().__init__(bench, config.seed, Path())
        self._config, self.budget = config, CANDIDATES * EACH * len(skills)

    @cached_property
    def answers(self) -> Answers:
        return Answers(self._config)

    def parts(self, recipe: Recipe, each: int = EACH) -> dict[str, float] | None:
        return super().parts(recipe, EACH)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--arms", nargs="+", default=list(PEERS), choices=PEERS)
    arguments = parser.parse_args()
    family, work = arguments.family.resolve(), arguments.work.resolve()
    for arm in arguments.arms:
        for seed in arguments.seeds:
            file = HERE / f"seed-{seed}" / f"{arm}.json"
            if file.exists():
                continue
            os.chdir(prepared(family, work, seed))
            arena, began = Real(load_config(Path("search.yaml"))), time.perf_counter()
            found = ARMS[arm](arena)
            entry: dict[str, Any] = {
                "documents": arena.spent,
                "seconds": round(time.perf_counter() - began),
                **found.notes,
                "recipe": found.recipe.model_dump(mode="json", exclude_none=True),
            }
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(entry) + "\n")
            print(f"seed {seed}, {arm}: {entry['search']} on the search documents, {entry['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
