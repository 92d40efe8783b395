"""The end of a run: finalists on the selection documents, the winner made simpler and written, then everything on the
report documents. Each step is kept as it is done, so that an interrupted ending goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from engine.errors import RecipeError
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.write import write_checkpoint
from evolve.atomic import write_text
from evolve.conclusion.finalists import Floors, choose_finalists, opening_recipes
from evolve.conclusion.selection import Selection, select
from evolve.conclusion.simplify import Step, as_events, simplify
from evolve.conclusion.tally import tally
from evolve.conclusion.verdict import Verdict, judge, others
from evolve.config.search_yaml import SearchConfig
from evolve.preparation.course import Searched, draws_of
from evolve.preparation.setting import Setting
from evolve.search import worth
from evolve.search.baselines import BASE, model_recipes
from evolve.search.candidates import recipe_of
from evolve.search.draws import Draws, Only
from evolve.search.front import Front, assembled, file_of, front_csv, front_data, front_of, spread_out
from evolve.search.opening import START
from evolve.statistics.importance import influences, recorded_gradients
from evolve.statistics.levels import LEVEL
from evolve.statistics.twins import same_merge
from evolve.storage.lease import Lease
from evolve.storage.ledger import Ledger
from evolve.trial import Failure, Job, Trial
from evolve.watching.progress import ProgressLog
from evolve.workers.executor import Executor
from tasks.objective import Objective, Utilities


def decide(
    config: SearchConfig,
    setting: Setting,
    ledger: Ledger,
    lease: Lease,
    executor: Executor,
    trials: Sequence[Trial],
    found: Searched,
    log: ProgressLog,
) -> tuple[Verdict, dict[str, Any], Recipe]:
    """The verdict, what else the report tells (simplification, front), and the winner, whose checkpoint is written.

    What is told goes on record as one value, which is 64 KB of text at most where the storage is MySQL: nothing belongs
    into it that grows with the number of candidates.
    """
    objective, floors = deciding(setting.objective, ledger), config.score.floors
    base = model_recipes(setting.family)[BASE].digest
    front = front_of(trials, list(objective.weights)) if setting.problem.objectives > 1 else []
    shown = spread_out(front, list(objective.weights))
    finalists = choose_finalists(
        setting.space,
        trials,
        found.recommended,
        config.search.finalists,
        objective=objective,
        floors=floors,
        base=base,
        front=shown,
        answers=opening_answers(setting, trials, objective, executor),
    )
    chunks = selection_chunks(setting)
    log.stage("finalists on the selection documents", len(finalists))
    kept = [each.digest for each in shown]
    selection = select(finalists, objective, executor, log.step, chunks=chunks, floors=floors, base=base, kept=kept)
    members = write_front(front, selection, setting, trials, config.folder, objective) if front else None
    steps: list[Step] = []
    if config.search.simplify:
        selection, steps = made_simpler(selection, setting, objective, executor, log, chunks, floors, base)
    lease.check()
    record_steps(steps, selection, ledger)
    winner = selection.ranked[0].recipe
    write_text(config.folder / "best.yaml", winner.to_yaml())
    write_winner(plan(winner, setting.checkpoints), config.folder / "checkpoint", log)
    openings = ledger.events("report opened")
    if not openings or openings[-1]["trials"] != len(trials):
        ledger.add_event("report opened", trials=len(trials), winner=winner.digest)
    baselines = opening_recipes(trials, setting.space)
    log.stage("report documents", 1 + len(setting.family.models) + len(others(setting.family, baselines)))
    verdict = judge(
        selection,
        config.folder / "checkpoint",
        setting.family,
        setting.objective,
        config.seed,
        executor,
        log.step,
        baselines=baselines,
        floors=floors,
        ranked_by=objective,
        same=partial(same_merge, checkpoints=setting.checkpoints),
    )
    told = {
        "genes": genes_told(setting, trials, ledger, log),
        "gaps": next((event["gaps"] for event in ledger.events("normalised")), {}),
        "ended": found.ended,
        "worth": worth_told(ledger, in_vain=found.in_vain),
        "level": LEVEL,
        "documents": tally(setting, trials, ledger.events(), selection, steps, len(verdict.rows)),
        "simplification": [asdict(step) for step in steps],
        "front": None if members is None else front_data(members),
    }
    return verdict, told, winner


def opening_answers(
    setting: Setting, trials: Sequence[Trial], objective: Objective, executor: Executor
) -> dict[str, Utilities]:
    """What the opening's candidates scored on the search documents that all of them met, by digest; they are on record,
    and nothing is scored again."""
    starts = {each.digest: each for each in trials if each.origin.startswith(START) and each.whole and not each.failure}
    only = draws_of(setting).chunks(0)[-1]
    jobs = [Job(digest, "search", recipe_of(each, setting.space), only=only) for digest, each in starts.items()]
    found = {}
    for job, evaluation in executor.run(jobs):
        if not isinstance(evaluation.outcome, Failure):
            found[job.key] = objective.utilities(evaluation.outcome.measures)
    return found


def worth_told(ledger: Ledger, *, in_vain: bool) -> dict[str, Any]:
    """How often the search was asked whether it is worth going on with, what it led by last, and whether that ended
    it."""
    events = ledger.events("worth")
    return {
        "asked": len(events),
        "documents": sum(event["documents"] for event in events),
        "lead": events[-1]["lead"] if events else None,
        "error": events[-1]["error"] if events else None,
        "ended": in_vain,
        "gain": worth.GAIN,
    }


def genes_told(
    setting: Setting, trials: Sequence[Trial], ledger: Ledger, log: ProgressLog
) -> list[dict[str, Any]] | None:
    """Which groups of genes mattered, as the report tells it; None where that could not be worked out: it comes last,
    and what was scored must not be lost to it."""
    try:
        gradients = recorded_gradients(ledger.events())
        return [asdict(each) for each in influences(setting.space.genes, trials, setting.config.seed, gradients)]
    except Exception as error:  # whatever it is, such as no memory
        log.say(f"which genes mattered: left out of the report ({type(error).__name__}: {error})")
        return None


def deciding(objective: Objective, ledger: Ledger) -> Objective:
    """The objective that finalists are ranked by: normalised by the gaps that the search measured, where it did."""
    events = ledger.events("normalised")
    return objective.normalised(events[0]["gaps"]) if events else objective


def selection_chunks(setting: Setting) -> tuple[Only, ...]:
    documents = {task: tuple(sets.selection) for task, sets in setting.prepared.documents.items()}
    return Draws(documents, setting.config.seed).chunks(0)


def made_simpler(
    selection: Selection,
    setting: Setting,
    objective: Objective,
    executor: Executor,
    log: ProgressLog,
    chunks: Sequence[Only],
    floors: Floors,
    base: str,
) -> tuple[Selection, list[Step]]:
    """The selection with a simpler winner, where one is as good; every try is told."""
    standard = next((each.name for each in selection.ranked if each.recipe.digest == base), "")
    return simplify(
        selection,
        setting.family,
        objective,
        executor,
        tell_tries(log),
        chunks=chunks,
        floors=floors,
        base=selection.measures.get(standard),
    )


def tell_tries(log: ProgressLog) -> Callable[[str], None]:
    return lambda text: log.say(f"simpler: {text}")


def record_steps(steps: Sequence[Step], selection: Selection, ledger: Ledger) -> None:
    """An event for every simplification that was taken, unless an earlier ending of the same trials recorded it."""
    if not any(step.kept for step in steps):
        return
    known = [
        {key: value for key, value in event.items() if key not in ("kind", "at")}
        for event in ledger.events("simplified")
    ]
    for facts in as_events(steps, selection.ranked[1]):
        if facts not in known:
            ledger.add_event("simplified", **facts)


def write_winner(planned: Plan, folder: Path, log: ProgressLog) -> None:
    """The merged checkpoint, unless it is there whole from an earlier start."""
    mark = folder / "merge_recipe.yaml"
    with suppress(RecipeError, OSError, UnicodeDecodeError):  # absent or damaged: written again
        if Recipe.from_yaml(mark.read_text(encoding="utf-8")).digest == planned.recipe.digest:
            return
    log.say("writing the merged checkpoint")
    write_checkpoint(planned, folder)


def write_front(
    trials: Sequence[Trial],
    selection: Selection,
    setting: Setting,
    every: Sequence[Trial],
    folder: Path,
    objective: Objective,
) -> Front:
    """front.csv, and in front/ a recipe each; `every`: all trials of the run."""
    models = {recipe.digest for recipe in model_recipes(setting.family).values()}
    digests = {each.name: each.recipe.digest for each in selection.ranked}
    front = assembled(
        trials,
        {trial.digest: recipe_of(trial, setting.space) for trial in trials},
        {digests[name]: measures for name, measures in selection.measures.items()},
        [trial.parts for trial in every if trial.digest in models and trial.whole and trial.parts],
        objective,
    )
    place = folder / "front"
    place.mkdir(parents=True, exist_ok=True)
    for stale in {*place.glob("*.yaml")} - {place / file_of(member) for member in front.members}:
        stale.unlink()  # of an ending with fewer trials
    for member in front.members:
        write_text(place / file_of(member), member.recipe.to_yaml())
    write_text(folder / "front.csv", front_csv(front))
    return front
