"""Which genes mattered: found where they did, and silence where nothing can be told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from evolve.statistics.importance import (
    FEWEST,
    MOST,
    Influence,
    gram_of,
    holm,
    influences,
    left_out_errors,
    partitions,
    recorded_gradients,
    squared_slopes,
)
from evolve.trial import Trial
from search_spaces.gene import Gene

Array = npt.NDArray[np.float64]
GENES = tuple(
    Gene(f"weight.{model}.{group}.layer_{layer}", parameter="weight", model=model, group=group, position=layer)
    for model in ("math", "code", "chat")
    for group in ("self_attn", "mlp")
    for layer in range(10)
)


def searched(worth: Callable[[Array], Array], seed: int, noise: float = 0.03, candidates: int = 98) -> list[Trial]:
    """Generations of fourteen around the mean of the better half of the one before."""
    generator, mean, trials = np.random.default_rng(seed), np.full(len(GENES), 0.5), list[Trial]()
    for generation in range(candidates // 14):
        points = np.clip(mean + 0.15 * generator.normal(size=(14, len(GENES))), 0, 1)
        values = worth(points) + noise * generator.normal(size=14)
        for point, value in zip(points, values, strict=True):
            trials.append(Trial(len(trials), generation, tuple(point), "d", float(value), origin="search"))
        mean = points[np.argsort(-values)[:7]].mean(axis=0)
    return trials


def of(kind: str, found: list[Influence]) -> dict[str, Influence]:
    return {each.group: each for each in found if each.kind == kind}


def test_what_mattered_is_found_among_sixty_genes_and_a_hundred_candidates() -> None:
    mattered = [
        place
        for place, gene in enumerate(GENES)
        if gene.model == "math" and gene.group == "mlp" and gene.position in (0, 1, 2)
    ]
    found = influences(GENES, searched(lambda points: 0.15 * points[:, mattered].sum(axis=1), 0), 0)
    told = {(each.kind, each.group) for each in found if each.told}
    assert told == {("parameter", "weight of math"), ("depth", "places 0 to 2"), ("module group", "mlp")}
    math = of("parameter", found)["weight of math"]
    assert math.share > 2 * math.error > 0
    assert math.genes == 20


def test_nothing_is_told_of_noise() -> None:
    """60 genes, 98 candidates, values that no gene changes: one kind of groups speaks in at most one run of twenty."""
    spoken, runs = 0, 12
    for seed in range(runs):
        found = influences(GENES, searched(lambda points: 0 * points[:, 0], seed), seed)
        spoken += any(each.told for each in of("parameter", found).values())
    assert spoken <= 2, "less than one of twelve is due; three or more have a chance of 2 %"


def test_an_optimizers_drift_is_no_influence() -> None:
    """Values rise with the generations and so does a gene, without anything between them."""
    generator = np.random.default_rng(3)
    trials = []
    for generation in range(7):
        for _ in range(14):
            point = generator.uniform(0.3, 0.7, len(GENES))
            point[0] += 0.04 * generation
            value = 0.1 * generation + 0.01 * generator.normal()
            trials.append(Trial(len(trials), generation, tuple(point), "d", float(value)))
    assert not any(each.told for each in influences(GENES, trials, 0))


def test_few_candidates_failures_and_the_opening_say_nothing() -> None:
    trials = searched(lambda points: points[:, 0], 0)
    assert influences(GENES, trials[: FEWEST - 1], 0) == []
    assert influences(GENES, [Trial(**{**vars(each), "origin": "start: base"}) for each in trials], 0) == []
    assert influences(GENES, [Trial(**{**vars(each), "value": None}) for each in trials], 0) == []
    assert influences(GENES, [Trial(**{**vars(each), "value": 0.5}) for each in trials], 0) == []


def test_of_many_candidates_the_last_ones_are_looked_at() -> None:
    """What mattered early and no more is not told, and memory is bounded."""
    early = searched(lambda points: points[:, 0], 0, candidates=14)
    late = searched(lambda points: points[:, 30], 1, candidates=MOST + 14)
    trials = [*early, *(Trial(**{**vars(each), "generation": each.generation + 1}) for each in late)]
    assert influences(GENES, trials, 0) == influences(GENES, trials[-MOST:], 0)


def test_a_group_has_one_gram() -> None:
    columns = [np.arange(6.0).reshape(3, 2), np.ones((3, 1)), np.eye(3)]
    assert gram_of(columns, [0, 2]).tolist() == (columns[0] @ columns[0].T + np.eye(3)).tolist()
    assert gram_of(columns, []).tolist() == np.zeros((3, 3)).tolist()


def test_choices_are_genes_too() -> None:
    genes = (Gene("method", choices=("linear", "ties", "slerp"), parameter="method"), Gene("t", parameter="t"))
    generator = np.random.default_rng(0)
    points = generator.random((60, 2))
    trials = [
        Trial(place, place // 10, tuple(point), "d", float(1 / 3 <= point[0] < 2 / 3) + 0.1 * generator.normal())
        for place, point in enumerate(points)
    ]
    found = of("parameter", influences(genes, trials, 0))
    assert found["method"].told, "the middle one of three is the best: no line through a number shows that"
    assert not found["t"].told


def test_groups() -> None:
    kinds = partitions((*GENES, Gene("weight.math.outer", parameter="weight", model="math", group="outer")))
    assert list(kinds["parameter"]) == ["weight of math", "weight of code", "weight of chat"]
    assert list(kinds["depth"]) == [
        "places 0 to 2",
        "places 3 to 4",
        "places 5 to 7",
        "places 8 to 9",
        "outside the layers",
    ]
    assert list(kinds["module group"]) == ["self_attn", "mlp", "outer"]
    assert "depth" not in partitions(GENES[:1])


def test_left_out_errors_are_those_of_fitting_without_the_candidate() -> None:
    generator = np.random.default_rng(1)
    columns = generator.normal(size=(30, 4))
    values = columns @ np.array([1.0, -1.0, 0.5, 0.0]) + 0.1 * generator.normal(size=30)
    errors, hat = left_out_errors(columns @ columns.T, values)
    by_hand = []
    ridge = next(
        ridge
        for ridge in 10.0 ** np.arange(-6, 8, 0.001)
        if np.trace(columns @ np.linalg.solve(columns.T @ columns + ridge * np.eye(4), columns.T))
        <= np.trace(hat) + 1e-9
    )
    for place in range(30):
        rest = np.arange(30) != place
        weights = np.linalg.solve(columns[rest].T @ columns[rest] + ridge * np.eye(4), columns[rest].T @ values[rest])
        by_hand.append(values[place] - columns[place] @ weights)
    assert errors == pytest.approx(by_hand, abs=2e-3)


def test_p_is_corrected_for_the_number_of_groups() -> None:
    found = [Influence("depth", str(p), 1, 0.0, 0.0, p) for p in (0.04, 0.01, 0.5, 0.02)]
    assert [each.p for each in holm(found)] == pytest.approx([0.08, 0.04, 0.5, 0.06])


def test_gradients_have_their_share() -> None:
    events = [{"kind": "step", "gradient": [3.0, 0.0]}, {"kind": "split"}, {"kind": "step", "gradient": [0.0, 4.0]}]
    shares = squared_slopes(recorded_gradients(events), 2)
    assert shares is not None
    assert shares.tolist() == pytest.approx([9 / 25, 16 / 25])
    assert squared_slopes([[1.0]], 2) is None, "of another space"
    genes = GENES[:20]
    trials = [Trial(**{**vars(each), "point": each.point[:20]}) for each in searched(lambda points: points[:, 0], 0)]
    found = of("module group", influences(genes, trials, 0, [[1.0] * 10 + [0.0] * 10]))
    assert (found["self_attn"].gradient, found["mlp"].gradient) == (pytest.approx(1.0), 0.0)
