"""What course a run's search takes, by its configuration."""

from __future__ import annotations

from collections.abc import Callable

from engine.methods import METHODS
from evolve.descent import Descent, Remember, descend
from evolve.draws import Draws
from evolve.loop import Climb, search
from evolve.optimizers import OPTIMIZERS
from evolve.setting import Setting
from evolve.study import Study
from evolve.trial import Point
from evolve.worth import Worth
from search_spaces.sensitivity import has_slope


def searched(study: Study, setting: Setting) -> Point | None:
    """Search until the budget is spent; returns the point that the optimizer believes in."""
    score = setting.config.score
    return search(
        study,
        OPTIMIZERS[setting.config.search.optimizer].make,
        setting.problem,
        normalize=score.normalize,
        floors=score.floors,
        climb=climb_of(setting, study),
        over=over_of(setting, study),
    )


def draws_of(setting: Setting) -> Draws:
    """What candidates are scored on. A race looks at a single value, and would miss floors and other objectives."""
    racing = setting.config.search.race and not setting.config.score.floors and setting.problem.objectives == 1
    return Draws(search_documents(setting), setting.config.seed, setting.config.search.sample, racing)


def climb_of(setting: Setting, study: Study) -> Climb | None:
    """How the search climbs by gradients, where that is asked for and every method of the space has them."""
    space = setting.space
    able = all(METHODS[name].differentiable for name in space.spec.methods) and any(map(has_slope, space.genes))
    if not setting.config.search.gradients or not able or space.spec.order:
        return None

    def climb(start: Point, remember: Remember) -> Descent:
        documents, seed = search_documents(setting), setting.config.seed
        return descend(space, start, study.executor, setting.checkpoints, documents, seed, remember=remember)

    return climb


def over_of(setting: Setting, study: Study) -> Callable[[], bool]:
    """Whether the search has become idle, where it may say so: with floors and several objectives better values are not
    all that is looked for."""
    if not setting.config.search.stop_early or setting.config.score.floors or setting.problem.objectives > 1:
        return lambda: False
    documents = {task: tuple(sets.selection) for task, sets in setting.prepared.documents.items()}
    return Worth(study, Draws(documents, setting.config.seed)).over


def search_documents(setting: Setting) -> dict[str, tuple[int, ...]]:
    return {task: tuple(sets.search) for task, sets in setting.prepared.documents.items()}
