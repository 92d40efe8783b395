"""`evolve check`: everything that can be known before the first trial."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from evolve.config.search_yaml import load_config
from evolve.errors import ModelError
from evolve.preparation.course import climbs, draws_of, search_documents
from evolve.preparation.preflight import Findings, check_weights, preflight
from evolve.preparation.setting import Setting
from evolve.search.baselines import model_recipes, opening_merges
from evolve.search.spread import climbs_of
from evolve.search.steps import most_charged
from evolve.trial import Failure, Job
from evolve.workers.evaluator import Evaluator
from evolve.workers.start import local_device

MARGIN = 3  # times a candidate's time here: others run beside it, and a worker's first one takes longer


def check(path: Path, timed: bool, threads: int | None = None) -> None:
    """Print what a run would find, with `threads` a worker on this machine (None: to be chosen). Raises what a user
    can put right; merges nothing."""
    config = load_config(path)
    findings = preflight(config, print, threads)
    setting = findings.setting
    check_weights(setting)
    print(f"checkpoint: {findings.plan.write_bytes / 2**20:.1f} MiB will be written to {config.folder / 'checkpoint'}")
    if config.run.address != "local":
        from evolve.workers.joining import connect

        with ExitStack() as stack:
            connect(config.run.address, None, stack)
        print(f"cluster: {config.run.address} answers")
    if findings.workers is not None:
        workers = findings.workers
        print(f"workers: {workers.text}, up to {workers.memory / 2**30:.1f} GiB each")
    if timed:
        computing = findings.workers.threads if findings.workers else 1
        seconds = seconds_of_candidate(findings, computing)
        print(f"time: {time_of_run(findings, seconds)}")
        for caution in tight(config.run.candidate_minutes, seconds):
            print(f"warning: {caution}")
    print("all is well")


def tight(minutes: float | None, seconds: float) -> list[str]:
    """What to say of `run.candidate_minutes`, where a candidate takes so many seconds here."""
    if minutes is None or seconds * MARGIN <= 60 * minutes:
        return []
    return [
        f"run.candidate_minutes ({minutes:g}) leaves little to candidates, which take {amount(seconds)} here without "
        f"their merge; give them {MARGIN} times that"
    ]


def seconds_of_candidate(findings: Findings, threads: int) -> float:
    """Scores the base on what a candidate is scored on, which is what it costs beside its merge."""
    config = findings.setting.config
    recipe = model_recipes(findings.setting.family)["base"]
    evaluator = Evaluator(config, device=local_device(), threads=threads)
    evaluation = evaluator.evaluate(Job(recipe.digest, "search", recipe, only=draws_of(findings.setting).chunks(0)[-1]))
    if isinstance(evaluation.outcome, Failure):
        raise ModelError(f"models.base ({config.models.base}): cannot be scored: {evaluation.outcome.message}")
    return sum(evaluation.seconds[phase] for phase in ("merge", "forward", "other"))


def time_of_run(findings: Findings, seconds: float) -> str:
    """What a run takes whose candidates take so many seconds and all race to the end, by the documents of each part."""
    setting, search = findings.setting, findings.setting.config.search
    count, size = findings.workers.count if findings.workers else 1, draws_of(setting).size
    each = seconds / size
    told = [f"{amount(each * size * search.trials / count)} for {search.trials} candidates"]
    if climbs(setting):  # step after step, on one worker
        made = climbs_of(setting.problem.objectives)
        charged = sum(most_charged(search_documents(setting), settings) for settings in made)
        told.append(f"{amount(each * charged)} for gradients")
    told.append(f"{amount(each * documents_of_end(setting) / count)} for finalists and the report")
    return f"{seconds:.1f} s a candidate ({size} documents, merge not counted); at most about {', '.join(told)}"


def documents_of_end(setting: Setting) -> int:
    """Documents that are scored in the end if no finalist stops early, simplification not counted."""
    plain = len(model_recipes(setting.family)) + len(opening_merges(setting.space))
    sets = setting.prepared.documents.values()
    selection, report = sum(len(each.selection) for each in sets), sum(len(each.report) for each in sets)
    return (setting.config.search.finalists + plain) * selection + (1 + plain) * report


def amount(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
