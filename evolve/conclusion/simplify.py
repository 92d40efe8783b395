"""After the search: a recipe that a person can read, as long as it scores like the winner.

Tried are, in this order: leaving out sources, the smallest first; fewer blocks of layers; one value for all module
groups, and for what lies outside of the layers; and rounder numbers. A step is kept while the recipe's selection score
is within one standard error of the winner's, paired on the same documents ("one standard error" as in Breiman et al.,
"Classification and Regression Trees", 1984, section 3.4.3), while it keeps the floors, and while most of the winner's
lead over the best baseline is left. Differences are always to the winner itself, so that they cannot add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import ValidationError

from engine.recipe import Recipe
from evolve.conclusion import coarsening
from evolve.conclusion.coarsening import Data
from evolve.conclusion.finalists import Finalist, Floors
from evolve.conclusion.selection import Selection, scored
from evolve.search.draws import Only
from evolve.statistics.floors import violation
from evolve.statistics.levels import ERRORS, LEAD_KEPT, ONE_SIDED
from evolve.statistics.paired import mean_and_error
from evolve.trial import Job
from evolve.workers.executor import Executor
from search_spaces.assemble import labels
from search_spaces.depth import Family
from tasks.objective import Measures, Objective, restricted

SCORINGS = 20  # recipes tried, at most; a bad one stops after the first chunk of documents


@dataclass(frozen=True)
class Step:
    """One try: what was made simpler, whether it was kept, the difference to the winner on the selection documents
    (None: it could not be scored), its standard error, and the documents scored."""

    step: str
    kept: bool
    difference: float | None
    error: float
    documents: int


class Trials:
    """Scores simpler recipes against the winner, until `SCORINGS` are spent."""

    def __init__(
        self,
        selection: Selection,
        objective: Objective,
        executor: Executor,
        chunks: Sequence[Only | None],
        floors: Floors,
        base: Measures | None,
    ) -> None:
        self.winner = selection.ranked[0]
        self._reference = selection.measures[self.winner.name]
        self._objective, self._executor, self._chunks = objective, executor, chunks
        self._floors, self._base = floors, base
        best = selection.best_start
        lead = 0.0 if best is None else self.winner.selection - best.selection
        self._least = (LEAD_KEPT - 1) * lead if lead > 0 else 0.0
        self._bounded = best is not None
        self.steps: list[Step] = []
        self.measures: dict[str, Measures] = {self.winner.recipe.digest: self._reference}

    @property
    def spent(self) -> bool:
        return len(self.steps) >= SCORINGS

    def as_good(self, step: str, recipe: Recipe) -> bool:
        """Whether the recipe scores like the winner; records the step."""
        result = self._measure(step, recipe)
        self.steps.append(result)
        return result.kept

    def _measure(self, step: str, recipe: Recipe) -> Step:
        seen = 0
        for place, chunk in enumerate(self._chunks):
            last = place == len(self._chunks) - 1
            job = Job(key=recipe.digest, documents="selection", recipe=recipe, only=None if last else chunk)
            found = scored({step: job}, self._objective, self._executor, lambda _: None)
            if step not in found:
                return Step(step, False, None, 0.0, seen)
            measures = found[step].measures
            ours = self._objective.utilities(measures)
            seen = sum(map(len, ours.values()))
            theirs = self._objective.utilities(restricted(self._reference, ours))
            difference, error = mean_and_error(ours, theirs, self._objective.weights)
            if last:
                kept = difference >= -ERRORS * error and self._leads(difference) and self._keeps_floors(measures)
                self.measures[recipe.digest] = measures
                return Step(step, kept, difference if math.isfinite(difference) else None, error, seen)
            if not difference >= -ONE_SIDED * error:  # also where it is no number
                return Step(step, False, difference if math.isfinite(difference) else None, error, seen)
        raise ValueError("chunks: there are none")

    def _leads(self, difference: float) -> bool:
        return not self._bounded or difference >= self._least

    def _keeps_floors(self, measures: Measures) -> bool:
        if not self._floors or self._base is None:
            return True
        ours, base = (self._objective.oriented(self._objective.metrics(each)) for each in (measures, self._base))
        return violation(ours, base, self._floors) == 0.0


def simplify(
    selection: Selection,
    family: Family,
    objective: Objective,
    executor: Executor,
    done: Callable[[str], None],
    *,
    chunks: Sequence[Only | None] = (None,),
    floors: Floors | None = None,
    base: Measures | None = None,
) -> tuple[Selection, list[Step]]:
    """The selection with the simplified winner in front of the one that it was made from, and all steps tried.

    `base`: the base's measures on the selection documents, needed where there are floors. A winner that is a baseline
    is left as it is.
    """
    winner = selection.ranked[0]
    if winner.kind == "start":
        return selection, []
    trials = Trials(selection, objective, executor, chunks, floors or {}, base)
    recipe = coarsening.tidy(winner.recipe.model_dump(mode="json", exclude_none=True), family)  # the same merge
    for stage in (fewer_sources, fewer_blocks, fewer_groups, rounder):
        recipe = stage(recipe, family, trials, done)
    simple = Recipe.model_validate(recipe)
    if not any(step.kept for step in trials.steps):
        return selection, trials.steps
    measures = trials.measures[simple.digest]
    ahead = replace(
        winner,
        name=f"{winner.name}, simplified",
        of=winner.name,
        recipe=simple,
        search=None,
        selection=objective.value(measures),
        metrics={"selection": objective.metrics(measures)},
    )
    known = {**selection.measures, ahead.name: measures}
    return replace(selection, ranked=(ahead, *selection.ranked), measures=known), trials.steps


def attempt(step: str, recipe: Data | None, before: Data, trials: Trials, done: Callable[[str], None]) -> Data | None:
    """The simpler recipe where it is one and as good, else None. Both are tidy, so that what says the same is the same
    text, and is not tried."""
    if recipe is None or recipe == before or trials.spent:
        return None
    try:
        simple = Recipe.model_validate(recipe)
    except ValidationError:  # such as a method that needs two models
        return None
    kept = trials.as_good(step, simple)
    done(f"{step}{'' if kept else ': no'}")
    return recipe if kept else None


def fewer_sources(recipe: Data, family: Family, trials: Trials, done: Callable[[str], None]) -> Data:
    known = labels(family.models)
    for model in coarsening.sources_by_size(recipe):
        fewer = coarsening.without(recipe, model)
        fewer = fewer and coarsening.tidy(fewer, family)
        recipe = attempt(f"without {known.get(model, model)}", fewer, recipe, trials, done) or recipe
    return recipe


def fewer_blocks(recipe: Data, family: Family, trials: Trials, done: Callable[[str], None]) -> Data:
    """The fewest blocks that are as good: one, or found by halving, since fewer are seldom better than more."""
    levels = coarsening.coarser(recipe, family)
    low, high, best = 0, len(levels), recipe  # levels[i] has ever fewer blocks; those below `low` are as good
    probe = len(levels) - 1
    while levels and low < high:
        found = attempt(blocks_text(levels[probe]), levels[probe], recipe, trials, done)
        if found is None:
            high = probe
        else:
            low, best = probe + 1, found
        if trials.spent:
            break
        probe = (low + high) // 2
    return best


def blocks_text(recipe: Data) -> str:
    count = len(recipe.get("slices", [None]))
    return "one block of layers" if count == 1 else f"{count} blocks of layers"


def fewer_groups(recipe: Data, family: Family, trials: Trials, done: Callable[[str], None]) -> Data:
    if recipe["merge_method"] == coarsening.ORDER:  # a scale is of what a layer writes, and of no other tensor
        return recipe
    inside = coarsening.same_for_modules(recipe, family)
    recipe = attempt("one value for all module groups", inside, recipe, trials, done) or recipe
    everywhere = coarsening.same_outside(recipe, family)
    return attempt("embeddings, norm and head as the layers", everywhere, recipe, trials, done) or recipe


def rounder(recipe: Data, family: Family, trials: Trials, done: Callable[[str], None]) -> Data:
    for decimals in (2, 1):
        rounded = coarsening.rounded(recipe, decimals, family)
        recipe = attempt(f"{decimals} decimal{'s' * (decimals > 1)}", rounded, recipe, trials, done) or recipe
    return recipe


def as_events(steps: Sequence[Step], winner: Finalist) -> Iterator[Mapping[str, Any]]:
    """What the ledger keeps of the steps that were taken."""
    for step in steps:
        if step.kept:
            yield {"winner": winner.recipe.digest, **asdict(step)}
