"""What a search knows, and how more comes to be known: proposals become trials, and decisions become events.

Whatever stands in the ledger already is taken from there, in its order: a search that is started again walks the same
way without scoring anything, and goes on where the ledger ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.recipe import Recipe
from evolve.config.budget import Budget
from evolve.search.candidates import candidate_of, copy_of, trial_of
from evolve.search.draws import Draws, Only
from evolve.search.race import Finish, expected, parts_of, race
from evolve.storage.ledger import Ledger
from evolve.trial import Candidate, Evaluation, Job, Point, Trial
from evolve.workers.executor import Executor
from search_spaces.space import SearchSpace
from tasks.objective import Objective, Utilities

SEARCH = "search"  # the origin of points that an optimizer asks for


class Watcher(Protocol):
    """Who is told of progress."""

    def replayed(self, trials: int, moved: int) -> None: ...

    def finished(self, trial: Trial) -> None: ...


class Spent(Exception):
    """The budget does not allow what was asked for."""


@dataclass(frozen=True)
class Proposal:
    """A recipe to be tried. `point`: where it lies in the space, () outside of it; `origin`: who proposes it."""

    recipe: Recipe
    origin: str
    point: Point = ()


def proposal(study: Study, point: Point, origin: str) -> Proposal:
    """The recipe at a point of the study's space."""
    return Proposal(study.space.decode(point), origin, point)


class Study:
    """One run's trials, in the order of asking, and its decisions.

    `draws`: the documents that generations are scored on. `check` is called before every record and raises
    when this driver must not write any more. `known`: what is known of a job without asking anybody; `before`: the
    ledger's trials, where they have been read (seconds, of a hundred thousand).
    """

    def __init__(
        self,
        space: SearchSpace,
        executor: Executor,
        ledger: Ledger,
        budget: Budget,
        objective: Objective,
        draws: Draws,
        *,
        watcher: Watcher,
        check: Callable[[], None],
        known: Callable[[Job], Evaluation | None] = lambda job: None,
        before: Sequence[Trial] | None = None,
    ) -> None:
        self.space, self.executor, self.objective, self.draws = space, executor, objective, draws
        self.known = known
        self._ledger, self._budget, self._watcher, self._check = ledger, budget, watcher, check
        self._known = {trial.id: trial for trial in (ledger.trials() if before is None else before)}
        self._events = ledger.events()
        self._told: Counter[str] = Counter()  # decisions so far, by kind
        self.trials: list[Trial] = []  # those of the generations so far, by id
        self.generation = 0
        self.documents = 0  # scored by the generations so far, with what was charged for other work
        self._scored: dict[str, Trial] = {}  # by digest, those of `trials` that were scored whole
        self._raced_on: dict[str, set[tuple[str, int]]] = {}  # by rivals' digests
        watcher.replayed(len(self._known), 0)

    @property
    def recorded(self) -> list[Trial]:
        """All that the ledger holds, by id, also those of a generation that the budget cut short."""
        return [self._known[place] for place in sorted(self._known)]

    @property
    def used_up(self) -> str:
        """What of the budget bears no candidate more; "" where all of it does."""
        begun = len(self._known) - len(self.trials)
        return self._budget.used_up(len(self._known), self.documents, self.draws.size, begun)

    @property
    def goes_on(self) -> bool:
        """Whether there is a candidate more, on record or in the budget."""
        return len(self._known) > len(self.trials) or self._budget.candidates(len(self._known)) > 0

    def affords(self, documents: int) -> bool:
        """Whether the budget bears so many documents more."""
        return self._budget.times(max(1, documents), self.documents) > 0

    def score(
        self, proposals: Sequence[Proposal], keep: int | None = None, rival: Trial | None = None, draw: int = 0
    ) -> list[Trial]:
        """The trials of one generation, in its order. The `keep` best (None: a quarter) are never stopped early.

        `rival`: scored whole before, races with them; values on another draw than the first are told by their
        difference to it, as if all had been on the first one.

        Raises Spent where the budget ends within it; what was scored until then is on record.
        """
        first = len(self.trials)
        asked = [
            Candidate(first + place, self.generation, each.point, each.recipe, each.origin)
            for place, each in enumerate(proposals)
        ]
        # The recorded points are the truth, also where another machine's arithmetic asks for others.
        moved = sum(self._known[each.id].point != each.point for each in asked if each.id in self._known)
        if moved:
            self._watcher.replayed(len(self._known), moved)
        if any(each.id not in self._known for each in asked):
            allowed = self._allowed(asked)
            # Of a generation that the budget cuts nobody is stopped: who is would depend on where it was cut.
            spared = max(2, len(asked) // 4) if keep is None else keep
            for trial in self._evaluated(allowed, spared if len(allowed) == len(asked) else len(asked), rival, draw):
                self._record(trial)
        if any(each.id not in self._known for each in asked):
            raise Spent
        trials = [self._known[each.id] for each in asked]
        self._count(trials)
        self.generation += 1
        if rival is not None:
            self._charge(rival, draw)
        return trials

    def recall(self) -> Trial | None:
        """The next trial on record, where none was asked for in a generation; None where all are counted."""
        trial = self._known.get(len(self.trials))
        if trial is not None:
            self._count([trial])
        return trial

    def add(self, trial: Trial) -> None:
        """Record a trial that belongs to no generation, next in the order of telling."""
        self._record(trial)
        self._count([trial])

    def bears(self, begun: int) -> bool:
        """Whether the budget bears a candidate beside so many that are begun."""
        some = self._budget.candidates(len(self._known)) > begun
        return some and self._budget.times(self.draws.size, self.documents) > begun

    def scored(self, recipe: Recipe) -> Trial | None:
        """The trial in which this recipe was scored whole, of those so far."""
        return self._scored.get(recipe.digest)

    def _count(self, trials: Sequence[Trial]) -> None:
        self.trials += trials
        self.documents += sum(trial.documents for trial in trials)
        self._scored |= {trial.digest: trial for trial in trials if trial.failure is None and trial.whole}

    def _allowed(self, asked: list[Candidate]) -> list[Candidate]:
        """Those that the budget bears. Documents are counted up to the generation before, so that a search which was
        interrupted within one ends where it would have ended."""
        bearable = asked[: self._budget.times(self.draws.size, self.documents)]
        left = self._budget.candidates(len(self._known))
        new = [each.id for each in bearable if each.id not in self._known][:left]
        return [each for each in bearable if each.id in self._known or each.id in new]

    def _charge(self, rival: Trial, draw: int) -> None:
        """Count the documents that a rival was scored on for the first time."""
        first, drawn = (pairs_of(self.draws.chunks(each)[-1]) for each in (0, draw))
        before = self._raced_on.setdefault(rival.digest, first)
        self.documents += len(drawn - before)
        before |= drawn

    def note(self, decision: Mapping[str, Any]) -> None:
        """A decision of the optimizer, which has a `kind`."""
        facts = {key: value for key, value in decision.items() if key != "kind"}
        self.decide(decision["kind"], lambda: facts)

    def decide(self, kind: str, facts: Callable[[], dict[str, Any]], documents: int = 0) -> dict[str, Any]:
        """The next decision of this kind: the recorded one, or `facts()`, which is then recorded.

        `documents`: of scoring, which is charged for what `facts` does, or the most where it tells its own `documents`.
        Raises Spent where they are not left.
        """
        number = self._told[kind]
        found = [event for event in self._events if event["kind"] == kind]
        if number >= len(found):
            if not self._budget.candidates(0) or not self._budget.times(documents, self.documents):
                raise Spent
            made = facts()
            self._check()
            self._ledger.add_event(kind, **made)
            found.append({"kind": kind, **made})
            self._events.append(found[-1])
        self._told[kind] += 1
        self.documents += found[number].get("documents", documents)
        return found[number]

    def _record(self, trial: Trial) -> None:
        self._check()
        values = self.space.named(trial.point) if trial.point else {}
        self._ledger.record(trial, self.space.genes, values)
        self._known[trial.id] = trial
        self._watcher.finished(trial)

    def _evaluated(self, candidates: Sequence[Candidate], keep: int, rival: Trial | None, draw: int) -> Iterator[Trial]:
        """Trials of those candidates that have none. A recipe that was scored whole before is not scored again."""
        scored = self._scored
        present = [self._known[each.id] for each in candidates if each.id in self._known]
        copied = {trial.digest: trial for trial in present if trial.failure is None}
        groups: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            if candidate.id not in self._known:
                groups.setdefault(candidate.recipe.digest, []).append(candidate)
        for digest in [each for each in groups if each in copied or each in scored]:
            yield from (copy_of(copied.get(digest) or scored[digest], twin) for twin in groups.pop(digest))
        runners = {digest: group[0] for digest, group in groups.items()}
        chunks = self.draws.chunks(draw)
        if runners and len(chunks) > 1:
            # A race goes on among all that began it: for those on record, their items answer.
            failed = {trial.digest for trial in present if trial.failure is not None} - runners.keys()
            runners = {
                each.recipe.digest: each for each in candidates if each.recipe.digest not in scored.keys() | failed
            }
        if runners and rival is not None:
            runners = {rival.digest: candidate_of(rival, self.space), **runners}
        for finish, parts in self._raced(list(runners.values()), chunks, keep, rival):
            leader, *others = groups.get(finish.candidate.recipe.digest, [None])
            if leader is not None:
                trial = trial_of(leader, finish, parts, self.objective, whole=self.is_whole(finish.utilities))
                yield trial
                yield from (copy_of(trial, twin) for twin in others if twin is not None)

    def _raced(
        self, runners: Sequence[Candidate], chunks: Sequence[Only], keep: int, rival: Trial | None
    ) -> Iterator[tuple[Finish, dict[str, float]]]:
        """Each at the end of its race with its parts, those of failures empty."""
        whole: list[Utilities] = []
        waiting: list[Finish] = []  # for the rival, by which they are told
        shift = None if rival is not None else dict.fromkeys(self.draws.documents, 0.0)
        spared = () if rival is None else (rival.id,)
        budget = self._budget
        raced = race(runners, chunks, keep, self.executor, self.objective, spared=spared, late=lambda: budget.late)
        for finish in raced:
            waiting.append(finish)
            if finish.utilities is not None and self.is_whole(finish.utilities):
                whole.append(finish.utilities)
            if rival is not None and finish.candidate.id == rival.id:
                shift = shift_of(rival, finish.utilities)
            if shift is not None:
                for each in waiting:
                    yield each, self._parts(each.utilities, whole, shift)
                waiting = []

    def _parts(
        self, utilities: Utilities | None, whole: Sequence[Utilities], shift: Mapping[str, float]
    ) -> dict[str, float]:
        if utilities is None:
            return {}
        parts = parts_of(utilities) if self.is_whole(utilities) else expected(utilities, whole)
        return {task: part + shift[task] for task, part in parts.items()}

    def is_whole(self, utilities: Utilities | None) -> bool:
        """Whether these are of all documents of a draw."""
        return utilities is not None and sum(map(len, utilities.values())) >= self.draws.size


def pairs_of(only: Only) -> set[tuple[str, int]]:
    return {(task, each) for task, ids in only.items() for each in ids}


def shift_of(rival: Trial, utilities: Utilities | None) -> dict[str, float]:
    """By task, what the documents of this draw are easier for the rival than those that it was first scored on; 0
    where it failed this time."""
    again = {} if utilities is None else parts_of(utilities)
    return {task: part - again.get(task, part) for task, part in rival.parts.items()}
