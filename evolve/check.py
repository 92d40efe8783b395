"""`evolve check`: everything that can be known before the first trial."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from evolve.baselines import model_recipes
from evolve.config import load_config
from evolve.errors import ModelError
from evolve.evaluator import Evaluator
from evolve.preflight import Findings, check_weights, preflight
from evolve.start import local_device
from evolve.trial import Failure, Job


def check(path: Path, timed: bool, threads: int | None = None) -> None:
    """Print what a run would find, with `threads` a worker on this machine (None: to be chosen). Raises what a user
    can put right; merges nothing."""
    config = load_config(path)
    findings = preflight(config, print, threads)
    setting = findings.setting
    check_weights(setting)
    print(f"checkpoint: {findings.plan.write_bytes / 2**20:.1f} MiB will be written to {config.folder / 'checkpoint'}")
    if config.run.address != "local":
        from evolve.cluster import connect

        with ExitStack() as stack:
            connect(config.run.address, None, stack)
        print(f"cluster: {config.run.address} answers")
    if findings.workers is not None:
        workers = findings.workers
        print(f"workers: {workers.text}, up to {workers.memory / 2**30:.1f} GiB each")
    if timed:
        computing = findings.workers.threads if findings.workers else 1
        print(f"time: {time_of_candidate(findings, computing)}")
    print("all is well")


def time_of_candidate(findings: Findings, threads: int) -> str:
    """Scores the base on the search documents, which is what a candidate costs beside its merge."""
    config = findings.setting.config
    recipe = model_recipes(findings.setting.family)["base"]
    evaluator = Evaluator(config, device=local_device(), threads=threads)
    evaluation = evaluator.evaluate(Job(key=recipe.digest, documents="search", recipe=recipe))
    if isinstance(evaluation.outcome, Failure):
        raise ModelError(f"models.base ({config.models.base}): cannot be scored: {evaluation.outcome.message}")
    seconds = sum(evaluation.seconds[phase] for phase in ("merge", "forward", "other"))
    count = findings.workers.count if findings.workers else 1
    hours = seconds * config.search.trials / count / 3600
    return f"{seconds:.1f} s a candidate (merge not counted), about {hours:.1f} h for {config.search.trials} candidates"
