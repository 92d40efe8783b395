"""A search without generations: whoever is free gets the next useful thing at once.

A worker that has answered goes on with its own candidate where that stays in its race, else with a point drawn from
what is believed by then. Trials are numbered and recorded in the order in which they end, which is the order in which
the optimizer is told of them: a recorded history replays, another run may differ.

There is no common finish to race to. A candidate stops where it is clearly worse than the best quarter of the last
`population` that came as far as it did, as in asynchronous successive halving (Li et al. 2020, arXiv:1810.05934).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from heapq import nlargest
from operator import itemgetter

from engine.recipe import Recipe
from evolve.optimizers.optimizer import Steady
from evolve.search.candidates import copy_of, trial_of
from evolve.search.race import Finish, clearly_worse, expected, finish_of, parts_of
from evolve.search.standing import Standing
from evolve.search.study import SEARCH, Spent, Study, proposal
from evolve.trial import Candidate, Evaluation, Job, Point, Trial
from tasks.objective import Utilities, mean_over_tasks

WHOLE = 24  # candidates by whose scores it is told what one that stopped would have come to


@dataclass
class Runner:
    """A recipe on its way through the chunks, with all points that came to it meanwhile."""

    recipe: Recipe
    points: list[Point]
    place: int = 0
    seconds: Counter[str] = field(default_factory=Counter)


class Stream:
    """The rest of a study after its opening, one trial after another."""

    def __init__(self, study: Study, optimizer: Steady, standing: Standing, population: int) -> None:
        self._study, self._optimizer, self._standing, self._population = study, optimizer, standing, population
        self._chunks = study.draws.chunks(0)
        # Of the last that came as far as each chunk, their means there; and the last that were scored whole.
        self._came: list[deque[tuple[float, Utilities]]] = [deque(maxlen=population) for _ in self._chunks]
        self._whole: deque[Utilities] = deque(maxlen=WHOLE)
        self._first, self._generation = len(study.trials), study.generation
        self._running: dict[str, Runner] = {}  # by the recipe's digest
        self._drawn = 0  # points of these
        self._onward: deque[Runner] = deque()

    def run(self) -> None:
        """Until the budget ends."""
        while (trial := self._study.recall()) is not None:
            self._tell(trial)
        before = -1
        while before < len(self._study.trials) or self._onward:
            before = len(self._study.trials)
            # What waits for its next chunk when the last worker answers, begins another round.
            for job, evaluation in self._study.executor.run(self._jobs()):
                self._land(job, evaluation)

    def _jobs(self) -> Iterator[Job]:
        """The next useful thing, decided on when it is asked for."""
        while (runner := self._onward.popleft() if self._onward else self._next()) is not None:
            digest = runner.recipe.digest
            job = Job(key=digest, documents="search", recipe=runner.recipe, only=self._chunks[runner.place])
            known = self._study.known(job)
            if known is None:
                yield job
            else:
                self._land(job, known)

    @property
    def _more(self) -> bool:
        """Whether the budget bears a candidate beside those that are running."""
        return self._study.bears(self._drawn)

    def _next(self) -> Runner | None:
        """A recipe that nobody has scored; None where the budget bears none, or where all that is drawn is running."""
        for _ in range(self._population):
            if not self._more:
                return None
            made = proposal(self._study, self._optimizer.draw(), SEARCH)
            scored, runner = self._study.scored(made.recipe), self._running.get(made.recipe.digest)
            if scored is not None:
                self._add(copy_of(scored, self._candidate(made.point, made.recipe)))
                continue
            self._drawn += 1
            if runner is not None:
                runner.points.append(made.point)
            else:
                runner = self._running[made.recipe.digest] = Runner(made.recipe, [made.point])
                return runner
        return None

    def _land(self, job: Job, evaluation: Evaluation) -> None:
        runner = self._running[job.key]
        runner.seconds.update(evaluation.seconds)
        evaluation = replace(evaluation, seconds=dict(runner.seconds))
        finish = finish_of(self._candidate(runner.points[0], runner.recipe), evaluation, self._study.objective)
        last = runner.place == len(self._chunks) - 1
        stops = finish.utilities is None or last or self._is_behind(finish.utilities, runner.place)
        self._remember(finish.utilities, runner.place)
        if not stops:
            # Where nothing new can be begun, nobody else needs the documents that stopping would save.
            runner.place = runner.place + 1 if self._more else len(self._chunks) - 1
            self._onward.append(runner)
            return
        del self._running[job.key]
        self._drawn -= len(runner.points)
        self._end(runner, finish)

    def _is_behind(self, utilities: Utilities, place: int) -> bool:
        """Whether it is clearly a loser among the last that came as far, once there are enough of them."""
        came, weights = self._came[place], self._study.objective.weights
        if len(came) < self._population:
            return False
        (bar, theirs) = nlargest(max(2, self._population // 4), came, key=itemgetter(0))[-1]
        return mean_over_tasks(utilities, weights) < bar and clearly_worse(utilities, theirs, weights)

    def _remember(self, utilities: Utilities | None, place: int) -> None:
        if utilities is not None:
            self._came[place].append((mean_over_tasks(utilities, self._study.objective.weights), utilities))
            if self._study.is_whole(utilities):
                self._whole.append(utilities)

    def _end(self, runner: Runner, finish: Finish) -> None:
        study = self._study
        whole = study.is_whole(finish.utilities)
        trial = trial_of(finish.candidate, finish, self._parts(finish.utilities, whole), study.objective, whole=whole)
        self._add(trial)
        for twin in runner.points[1:]:
            self._add(copy_of(trial, self._candidate(twin, runner.recipe)))

    def _parts(self, utilities: Utilities | None, whole: bool) -> dict[str, float]:
        if utilities is None:
            return {}
        return parts_of(utilities) if whole else expected(utilities, self._whole)

    def _add(self, trial: Trial) -> None:
        self._study.add(trial)
        self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        self._standing.meet([trial])
        (seen,) = self._standing.told([trial])
        self._optimizer.learn(seen)
        with suppress(Spent):  # what still runs when the hours are over is told all the same
            for decision in self._optimizer.decisions():
                self._study.note(decision)

    def _candidate(self, point: Point, recipe: Recipe) -> Candidate:
        """Numbered as the next to end; so many as a population has count as a generation."""
        number = len(self._study.trials)
        return Candidate(number, self._generation + (number - self._first) // self._population, point, recipe, SEARCH)
