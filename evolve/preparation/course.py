"""What course a run's search takes, by its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from engine.methods import METHODS
from evolve.optimizers import OPTIMIZERS
from evolve.preparation.setting import Setting
from evolve.search.descent import CHANCE, TAIL, Descent, Reached, Remember, descend
from evolve.search.draws import Draws
from evolve.search.loop import Climb, search
from evolve.search.opening import START
from evolve.search.spread import climbs_of, leant_to
from evolve.search.study import Study
from evolve.search.worth import Worth
from evolve.trial import Point
from search_spaces.sensitivity import has_slope
from tasks.objective import Objective
from tasks.slope_question import parts_of

IN_VAIN = (
    "nothing that it finds is better than the models and plain merges that it began with; search.stop_early: false "
    "goes on"
)
NOTHING_LEFT = "the optimizer has nothing more to ask"
NOT_BEGUN = (
    ", with nothing scored but models and plain merges, with which every search begins: nothing was searched; give it "
    "more"
)


class Log(Protocol):
    """Who is told how the climb goes: `note` of a step, `say` of what stays to be read."""

    def note(self, text: str) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass(frozen=True)
class Searched:
    """The point that the optimizer believes in, and why the search ended; `in_vain`: since it found nothing; `nothing`
    was searched: the budget went into what every search begins with."""

    recommended: Point | None
    ended: str
    in_vain: bool = False
    nothing: bool = False


def searched(study: Study, setting: Setting, log: Log, questions: int) -> Searched:
    """Search until the budget is spent, or going on is in vain. `questions`: how many of those of `Worth` are on
    record."""
    score, answers = setting.config.score, list[bool]()
    ask = over_of(setting, study, questions)

    def over() -> bool:
        answers.append(ask())
        return answers[-1]

    recommended = search(
        study,
        OPTIMIZERS[setting.config.search.optimizer].make,
        setting.problem,
        normalize=score.normalize,
        floors=score.floors,
        climb=climb_of(setting, study, log),
        over=over,
        steady=OPTIMIZERS[setting.config.search.optimizer].steady if setting.config.search.asynchronous else None,
    )
    in_vain = answers[-1:] == [True]
    ended = IN_VAIN if in_vain else study.used_up or NOTHING_LEFT
    nothing = bool(study.used_up) and all(trial.origin.startswith(START) for trial in study.recorded)
    if nothing:
        ended += NOT_BEGUN
    log.say(f"the search has ended: {ended}")
    return Searched(recommended, ended, in_vain, nothing)


def draws_of(setting: Setting) -> Draws:
    """What candidates are scored on. A race looks at a single value, and would miss floors and other objectives; and at
    a part of the documents, of which a ratio over all of them cannot be told."""
    racing = setting.config.search.race and not setting.config.score.floors and setting.problem.objectives == 1
    racing = racing and all(goal.aggregation == "mean" for goal in setting.objective.goals)
    return Draws(search_documents(setting), setting.config.seed, setting.config.search.sample, racing)


def climb_of(setting: Setting, study: Study, log: Log) -> Climb | None:
    """How the search climbs by gradients, where it does."""
    space = setting.space
    if not climbs(setting):
        return None

    first, *others = climbs_of(setting.problem.objectives)

    def climb(start: Point, remember: Remember, weights: Mapping[str, float] | None, reached: Reached) -> Descent:
        documents, climbed = search_documents(setting), climbed_by(setting.objective)
        towards = leant_to(weights, study.objective.weights)
        found = descend(
            space,
            start,
            study.executor,
            setting.checkpoints,
            documents,
            f"{setting.config.seed} {towards}".strip(),  # each climb begins with documents of its own
            remember=remember,
            settings=first if weights is None else others[0],
            scoring=study.draws.size,
            weights=weights or study.objective.weights,
            tell=log.note,
            climbed=climbed,
            reached=reached,
        )
        log.say(summary(found, climbed, towards))
        return found

    return climb


def climbs(setting: Setting) -> bool:
    """Whether the search climbs by gradients: where that is asked for and every method of the space has them."""
    space = setting.space
    able = all(METHODS[name].differentiable for name in space.spec.methods) and any(map(has_slope, space.genes))
    return setting.config.search.gradients and able and not space.spec.order


def climbed_by(objective: Objective) -> str:
    """What the value of a gradient's step is called, which has several parts where tasks or shares differ."""
    parts = {parts_of(goal, objective) for goal in objective.goals}
    chances, likely = (all(part[place] == 0 for part in parts) for place in (1, 0))
    return CHANCE if chances else "log-likelihood of the right answers" if likely else "value of what is climbed"


def summary(found: Descent, climbed: str, towards: str) -> str:
    """How a climb went, in a line. `towards`: the task that it leant to, or ""."""
    gradients = f"gradients towards {towards}" if towards else "gradients"
    if not found.steps:
        return f"{gradients}: no step was made: {found.reason}"
    # A single step's documents may be easier or harder than those of another.
    some = min(TAIL, (len(found.steps) + 1) // 2)
    first, last = (sum(step.value for step in part) / some for part in (found.steps[:some], found.steps[-some:]))
    return (
        f"{gradients}: {climbed} {first:.3f} over the first {some} of {len(found.steps)} steps, {last:.3f} over the "
        f"last {some}; ended: {found.reason}"
    )


def over_of(setting: Setting, study: Study, questions: int) -> Callable[[], bool]:
    """Whether the search has become idle, where it may say so: of metrics that are means over documents, where nothing
    but better values is looked for, and where generations leave the time to ask."""
    means = setting.objective.is_metric and all(goal.aggregation == "mean" for goal in setting.objective.goals)
    single = not setting.config.score.floors and setting.problem.objectives == 1
    asks = setting.config.search.stop_early and not setting.config.search.asynchronous
    if not (asks and means and single):
        for _ in range(questions):  # of an earlier start that might end: their documents count
            study.decide("worth", dict)
        return lambda: False
    documents = {task: tuple(sets.selection) for task, sets in setting.prepared.documents.items()}
    return Worth(study, Draws(documents, setting.config.seed)).over


def search_documents(setting: Setting) -> dict[str, tuple[int, ...]]:
    return {task: tuple(sets.search) for task, sets in setting.prepared.documents.items()}
