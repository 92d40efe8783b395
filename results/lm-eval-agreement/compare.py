"""Does stock lm-eval, given a run's checkpoint, say what the run's report says?

    python results/lm-eval-agreement/compare.py results/demo

Runs the `lm_eval` command of the report on the written checkpoint, compares every document's verdict and every metric
with the run's, and writes README.md beside this file. Run it where the run was made, with `score.dtype: float32`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from engine.recipe import Recipe
from evolve.config.search_yaml import SearchConfig
from evolve.preparation.guard import load_run
from evolve.preparation.setting import Setting
from evolve.storage.items import Items
from evolve.trial import Job
from evolve.workers.remembering import Keys, score_of
from tasks.objective import Measures

HERE = Path(__file__).resolve().parent


def stock(config: SearchConfig, output: Path) -> Path:
    """Run the report's own lm_eval command; returns the folder with what it writes."""
    report = (config.folder / "report.md").read_text(encoding="utf-8")
    command = report.split("```\nlm_eval ")[1].split("```")[0].replace("\\\n", " ")
    words = shlex.split(command.replace("--output_path checked", f"--output_path {output}"))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-m", "lm_eval", *words, "--device", "cpu"], check=True, **quiet)
    return next(output.rglob("results_*.json")).parent


def winners_scores(setting: Setting) -> Measures:
    """The written checkpoint's scores on the report documents, as the run kept them."""
    folder, keys = setting.config.folder, Keys(setting)
    recipe = Recipe.from_yaml((folder / "best.yaml").read_text(encoding="utf-8"))
    job = Job(key=f"checkpoint of {recipe.digest}", documents="report", folder=str(folder / "checkpoint"))
    known = Items(folder / "items", owned=False).known(keys.candidate(job))
    return score_of(keys.digests("report"), known).measures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    config = load_run(arguments.run)
    setting = Setting(config)
    ours = winners_scores(setting)
    metrics = setting.objective.metrics(ours)
    lines = [
        "# The report by stock lm-eval",
        "",
        f"`python results/lm-eval-agreement/compare.py {arguments.run}`: the written checkpoint, loaded by "
        f"`lm_eval --model hf` in {config.score.dtype}, on the report documents.",
        "",
        "| task | metric | documents | verdicts that differ | report | lm_eval |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = stock(config, Path(scratch))
        results = json.loads(next(folder.glob("results_*.json")).read_text(encoding="utf-8"))["results"]
        for task in config.score.tasks:
            path = next(folder.glob(f"samples_{task.task}_*.jsonl"))
            samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            theirs = {sample["doc_id"]: float(sample[task.metric]) for sample in samples}
            goal = next(goal for goal in setting.objective.goals if goal.task == task.task)
            values = ours[task.task][goal.measure]
            if theirs.keys() != values.keys():
                raise SystemExit(f"{task.task}: lm-eval scored other documents")
            differ = sum(theirs[document] != values[document] for document in values)
            mean = results[task.task][f"{task.metric},none"]
            lines.append(
                f"| {task.task} | {task.metric} | {len(values)} | {differ} | {metrics[task.task]:.6f} | {mean:.6f} |"
            )
    (HERE / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
