"""One whole candidate, from recipe to scores: this project's in-memory path beside mergekit-evolve's.

    python results/scoring/turnaround.py BASE TASKS SOURCE SOURCE SOURCE --mergekit ENVIRONMENT/bin/python

A candidate is a TIES merge of three sources with weights and densities of its own, scored in bfloat16 on 100 documents
of every task in the folder TASKS (all multiple choice, metric acc); all but two documents a task are the same on both
sides, and so are the threads. ENVIRONMENT holds mergekit 0.1.4 with [evolve], transformers 4.57.6, lm_eval 0.4.9 and
pydantic 2.10.6. mergekit-evolve asks for a GPU even where it uses none, so its Ray is started in its own process with
one pretended GPU. Its seconds are those between two of its generations, read off its output, over the candidates of
the generation: merging, scoring and what its search does between. Ours are those of `Evaluator.evaluate`. The first
generation (there) and the first candidate (here), which also prepare, stand apart. Leaves turnaround.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from families import cut, names
from record import leave, phase

LAUNCH = """
import ray, sys
ray.init(num_gpus=1, num_cpus={cores}, include_dashboard=False, log_to_driver=False)
from mergekit.scripts.evolve import main
main()
"""


def older(folder: str, target: Path) -> str:
    """The checkpoint as transformers 4 reads it, which knows neither `rope_parameters` nor the tokenizer class of 5."""
    shutil.copytree(folder, target, copy_function=os.link if same_device(folder, target.parent) else shutil.copy)
    for name, change in (("config.json", _older_config), ("tokenizer_config.json", _older_tokenizer)):
        data = json.loads((target / name).read_text(encoding="utf-8"))
        change(data)
        (target / name).unlink()  # it may be a link
        (target / name).write_text(json.dumps(data), encoding="utf-8")
    return str(target)


def same_device(one: str | Path, two: str | Path) -> bool:
    return os.stat(one).st_dev == os.stat(two).st_dev


def _older_config(config: dict[str, Any]) -> None:
    rope = config.pop("rope_parameters", None)
    if rope is not None and rope.get("rope_type", "default") == "default":
        config["rope_theta"] = rope["rope_theta"]
    config["torch_dtype"] = config.pop("dtype", config.get("torch_dtype"))


def _older_tokenizer(config: dict[str, Any]) -> None:
    config["tokenizer_class"] = "PreTrainedTokenizerFast"


def theirs(given: argparse.Namespace, tasks: Path, scratch: Path) -> list[float]:
    """Seconds per candidate of each generation of mergekit-evolve, the first of them first."""
    (scratch / "models").mkdir()
    base, *sources = (older(each, scratch / "models" / str(n)) for n, each in enumerate([given.base, *given.sources]))
    genome = {"models": sources, "base_model": base, "merge_method": "ties", "layer_granularity": 0}
    config = {"genome": genome, "tasks": [{"name": name, "weight": 1.0, "metric": "acc,none"} for name in names(tasks)],
              "apply_chat_template": False, "fewshot_as_multiturn": False}  # fmt: skip
    path = scratch / "genome.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    flags = ["--in-memory", "--no-merge-cuda", "--num-gpus", "1", "--no-save-final-model",
             "--force-population-size", str(given.population),
             "--max-fevals", str(given.population * given.generations),
             "--task-search-path", str(tasks), "--storage-path", str(scratch / "storage")]  # fmt: skip
    command = [str(given.mergekit), "-c", LAUNCH.format(cores=os.cpu_count()), str(path), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1",
                                "HF_DATASETS_OFFLINE": "1", "RAY_worker_niceness": "0",
                                "HF_DATASETS_CACHE": str(scratch / "datasets")}  # fmt: skip
    marks: list[tuple[float, int]] = []
    with (scratch / "errors.txt").open("w") as errors:
        running = subprocess.Popen(command, cwd=scratch, env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=errors)  # fmt: skip
        assert running.stdout is not None
        for line in running.stdout:
            found = re.match(r"Received (\d+) genotypes", line)
            if found or "OPTIMIZATION COMPLETE" in line:
                marks.append((time.perf_counter(), int(found[1]) if found else 0))
        running.wait()
    if len(marks) < 3:
        raise SystemExit(f"mergekit-evolve scored no two generations\n{(scratch / 'errors.txt').read_text()[-3000:]}")
    return [(after - before) / count for (before, count), (after, _) in pairwise(marks)]


def ours(given: argparse.Namespace, tasks: Path) -> list[dict[str, float]]:
    """Seconds by phase of each candidate, the first of them first."""
    from evolve.config.search_yaml import SearchConfig
    from evolve.preparation.setting import Setting
    from evolve.trial import Failure, Job
    from evolve.workers.evaluator import Evaluator

    config = SearchConfig.model_validate(
        {
            "name": "turnaround",
            "models": {"base": given.base, "sources": given.sources},
            "space": {"method": "ties", "parameters": {"weight": {"low": 0.0, "high": 1.0},
                                                       "density": {"low": 0.2, "high": 1.0}}},
            "score": {"tasks": [{"task": name, "metric": "acc"} for name in names(tasks)], "include": [str(tasks)],
                      "dtype": "bfloat16",
                      "documents": {"search": given.documents, "selection": 2, "report": 2}},
        }
    )  # fmt: skip
    space = Setting(config).space
    chosen = random.Random(0)
    evaluator = Evaluator(config, threads=given.threads)
    rows = []
    for number in range(given.candidates + 1):
        recipe = space.decode(tuple(chosen.random() for _ in space.genes))
        start = time.perf_counter()
        done = evaluator.evaluate(Job(key=str(number), documents="search", recipe=recipe))
        total = time.perf_counter() - start
        if isinstance(done.outcome, Failure):
            raise SystemExit(f"candidate {number}: {done.outcome.message}")
        rows.append({**done.seconds, "total": total})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("tasks", type=Path)
    parser.add_argument("sources", nargs=3)
    parser.add_argument("--mergekit", type=Path, required=True, help="the Python of mergekit-evolve's environment")
    parser.add_argument("--documents", type=int, default=100, help="of each task")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--candidates", type=int, default=8, help="of ours, after the first")
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--population", type=int, default=2)
    given = parser.parse_args()
    given.base, given.sources = (os.path.abspath(given.base), [os.path.abspath(each) for each in given.sources])
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        # mergekit-evolve takes the first documents of a task, a search of ours draws them: its files hold no others
        # but for the four that our other two sets need.
        peers = cut(given.tasks, scratch / "peers", documents=given.documents)
        own = cut(given.tasks, scratch / "own", documents=given.documents + 4)
        before = phase("ours", lambda: ours(given, own))
        peer = phase("mergekit-evolve", lambda: theirs(given, peers, scratch))
        after = phase("ours again", lambda: ours(given, own))
    rows = [row for run in (before, after) for row in run[1:]]
    steady = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    first = statistics.median(run[0]["total"] for run in (before, after))
    # Where its last generation is one candidate, the search's own mean, it counts like the others.
    peer_steady = statistics.median(peer[1:])
    raw = {"arguments": {key: str(value) for key, value in vars(given).items()}, "ours": before, "ours_again": after,
           "mergekit_evolve": peer, "times": peer_steady / steady["total"]}  # fmt: skip
    table: list[dict[str, Any]] = [
        {"path": "ours", "first": first, "later": steady["total"],
         **{each: steady.get(each, 0.0) for each in ("merge", "forward", "other")}, "times": 1.0},
        {"path": "mergekit-evolve 0.1.4", "first": peer[0], "later": peer_steady, "merge": "", "forward": "",
         "other": "", "times": peer_steady / steady["total"]},
    ]  # fmt: skip
    count = len(names(given.tasks))
    title = f"Seconds a candidate: TIES of three sources, {given.documents} documents of each of {count} tasks"
    leave("turnaround", title, table, raw, threads=given.threads,
          notes="Median of those after the first; ours ran before and after the peer. Asked: at least 5x.")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
