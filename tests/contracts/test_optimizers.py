"""What holds for every row of OPTIMIZERS: a new optimizer is tested by being in the table."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from evolve.optimizers import OPTIMIZERS
from evolve.optimizers.optimizer import Optimizer, Problem, Steady
from evolve.trial import Observation, Point
from search_spaces.gene import Gene

GENES = (Gene("a", 0.1, 0.7), Gene("b", -1.0, 2.0), Gene("c", 0.0, 1.5), Gene("d", 1 / 3, 1.0))
MIXED = (Gene("method", choices=("ties", "slerp", "linear")), *GENES[:2], Gene("count", 1, 5, integer=True))
PLACES = (("outer", None), *((group, position) for group in ("self_attn", "mlp") for position in range(3)))
WEIGHTS = tuple(
    Gene(f"weight.{model}.{group}.{position}", 0.0, 1.5, (), False, "weight", model, group, position)
    for model in ("a", "b")
    for group, position in PLACES
)
DEEP = (*WEIGHTS, Gene("flag", choices=(True, False), parameter="flag"))
DEEP_START: tuple[Point, ...] = ((0.2,) * 14 + (0.25,), (0.5,) * 14 + (0.75,))
START: tuple[Point, ...] = ((0.5, 0.5, 0.5, 0.5), (0.0, 1.0, 0.25, 1.0), (0.1, 0.2, 0.3, 0.4))
MIXED_START: tuple[Point, ...] = ((0.5 / 3, 0.5, 0.5, 0.3), (1.5 / 3, 1.0, 0.0, 0.9))
Told = list[Observation]
Value = Callable[[Point], float]


SPACES = {"plain": (GENES, START), "mixed": (MIXED, MIXED_START), "deep": (DEEP, DEEP_START)}


def problem(
    name: str,
    genes: tuple[Gene, ...] = GENES,
    start: tuple[Point, ...] = START,
    seed: int = 3,
    objectives: int = 1,
    mean: Point | None = None,
    deviations: tuple[float, ...] | None = None,
) -> Problem:
    """Whoever can grow is asked to, where the genes say where they stand."""
    row = OPTIMIZERS[name]
    grow = row.grows and genes == DEEP
    return Problem(genes, start, seed, row.population(len(genes)), mean, deviations, objectives=objectives, grow=grow)


def make(name: str, **changes: object) -> Optimizer:
    return OPTIMIZERS[name].make(problem(name, **changes))  # type: ignore[arg-type]


def few(name: str, generations: int) -> int:
    """Gaussian processes take a quarter of a second a point: only as many as it takes to leave their random start."""
    return min(generations, 4) if name == "gp" else generations


def sphere(point: Point) -> float:
    return -sum((x - 0.7) ** 2 for x in point)


def seen(points: Sequence[Point], first: int, value: Value = sphere) -> Told:
    return [Observation(first + i, point, value(point), 0.01, 50) for i, point in enumerate(points)]


def advance(optimizer: Optimizer, generations: int, value: Value = sphere) -> list[Told]:
    history: list[Told] = []
    for _ in range(generations):
        history.append(seen(optimizer.ask(), sum(map(len, history)), value))
        optimizer.tell(history[-1])
    return history


def replay(optimizer: Optimizer, history: Sequence[Told]) -> list[list[Point]]:
    asked = []
    for told in history:
        asked.append(optimizer.ask())
        optimizer.tell(told)
    return asked


def decided(optimizer: Optimizer, history: Sequence[Told]) -> list[list[dict[str, object]]]:
    """What the optimizer decides at each generation of a history that it is told."""
    decisions = []
    for told in history:
        optimizer.ask()
        optimizer.tell(told)
        decisions.append(optimizer.decisions())
    return decisions


def points_of(history: Sequence[Told]) -> list[list[Point]]:
    return [[each.point for each in told] for told in history]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("genes", "start"), [*SPACES.values(), (GENES, ()), (GENES[:1], ())])
def test_points_lie_in_the_cube(name: str, genes: tuple[Gene, ...], start: tuple[Point, ...]) -> None:
    optimizer = make(name, genes=genes, start=start)
    population = OPTIMIZERS[name].population(len(genes))
    for generation in range(few(name, 6)):
        points = optimizer.ask()
        assert len(points) == (len(start) if start and generation == 0 else population)
        for point in points:
            assert isinstance(point, tuple)
            assert len(point) == len(genes)
            assert all(type(unit) is float and 0.0 <= unit <= 1.0 for unit in point)
        optimizer.tell(seen(points, 0))
    recommended = optimizer.recommend()
    assert recommended is None or (len(recommended) == len(genes) and all(0 <= unit <= 1 for unit in recommended))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_start_points_come_first(name: str) -> None:
    for genes, start in SPACES.values():
        for asked, wanted in zip(make(name, genes=genes, start=start).ask(), start, strict=True):
            assert asked == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_ends_of_every_gene_can_start_a_search(name: str) -> None:
    """Binary fractions do not add up: low + 1.0 * (high - low) may lie beyond high."""
    generator = random.Random(0)
    for _ in range(30):
        low = generator.uniform(-2, 2)
        genes = tuple(Gene(f"g{i}", low, low + generator.uniform(0.1, 3)) for i in range(3))
        (point,) = make(name, genes=genes, start=((1.0, 0.0, 1.0),)).ask()
        assert point == pytest.approx((1.0, 0.0, 1.0), abs=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_problem_asks_the_same_points(name: str) -> None:
    first = advance(make(name), few(name, 6))
    assert first == advance(make(name), few(name, 6))
    assert advance(make(name, seed=4), 2)[1:] != first[1:2]
    assert advance(make(name, seed=2**70 + 1), 3) == advance(make(name, seed=2**70 + 1), 3)


def failing(point: Point) -> float:
    """Every failure is told as one low value, as the loop does it."""
    return -9.0 if point[0] > 0.5 else sphere(point)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("value", [sphere, failing])
@pytest.mark.parametrize("space", SPACES)
def test_replay_continues_where_it_ended(name: str, value: Value, space: str) -> None:
    genes, start = SPACES[space]
    whole = advance(make(name, genes=genes, start=start), few(name, 8), value)
    for cut in (1, 3, 7)[: len(whole) // 2]:
        optimizer = make(name, genes=genes, start=start)
        assert replay(optimizer, whole[:cut]) == points_of(whole[:cut])
        assert replay(optimizer, whole[cut:]) == points_of(whole[cut:])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("size", [1e-12, 1e-3])
@pytest.mark.parametrize("space", SPACES)
def test_recorded_points_are_the_truth(name: str, size: float, space: str) -> None:
    """Another machine's arithmetic asked for slightly other points; the search goes on from these."""
    genes, start = SPACES[space]

    def moved(told: Told) -> Told:
        return [replace(each, point=tuple(min(1.0, unit + size) for unit in each.point)) for each in told]

    first = make(name, genes=genes, start=start)
    history = [moved(told) for told in advance(make(name, genes=genes, start=start), few(name, 5))]
    replay(first, history)
    ongoing = advance(first, few(name, 6) // 2)
    second = make(name, genes=genes, start=start)
    replay(second, history)
    assert advance(second, len(ongoing)) == ongoing
    third = make(name, genes=genes, start=start)
    replay(third, [*history, *ongoing[:-1]])
    assert [each.point for each in ongoing[-1]] == third.ask()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_global_random_state_is_neither_used_nor_touched(name: str) -> None:
    np.random.seed(1)
    random.seed(1)
    reference = advance(make(name), few(name, 5))
    np.random.seed(2)
    random.seed(2)
    before = np.random.get_state()[1].copy(), random.getstate()  # type: ignore[union-attr,index]
    optimizer = make(name)
    points = []
    for told in reference:
        points.append(optimizer.ask())
        assert (np.random.get_state()[1] == before[0]).all()  # type: ignore[index]
        assert random.getstate() == before[1]
        optimizer.tell(told)
        random.seed(2)
    assert points == points_of(reference)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_population_depends_on_the_genes_alone(name: str) -> None:
    population = OPTIMIZERS[name].population
    sizes = [population(d) for d in (1, 2, 3, 10, 100, 1000)]
    assert min(sizes) >= 2
    assert sizes == [population(d) for d in (1, 2, 3, 10, 100, 1000)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("population", [2, 3, 7])
def test_a_population_that_the_user_chose_is_kept(name: str, population: int) -> None:
    optimizer = OPTIMIZERS[name].make(Problem(GENES, (), 0, population))
    for _ in range(few(name, 5)):
        points = optimizer.ask()
        assert len(points) == population
        optimizer.tell(seen(points, 0))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_plateau_breaks_nothing(name: str) -> None:
    """All values equal, as when every candidate answers every document alike, or all failed."""
    optimizer = make(name)
    generations = 60 if name == "cma" else few(name, 30)
    for told in advance(optimizer, generations, lambda _: 0.25):
        for each in told:
            assert all(0.0 <= unit <= 1.0 for unit in each.point)
    assert len({each for told in advance(optimizer, 1, lambda _: 0.25) for each in told}) > 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_asking_twice_asks_the_same_generation(name: str) -> None:
    for genes, start in SPACES.values():
        optimizer = make(name, genes=genes, start=start)
        for _ in range(3):
            points = optimizer.ask()
            assert optimizer.ask() == points
            optimizer.tell(seen(points, 0))


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row.steady])
@pytest.mark.parametrize("space", SPACES)
def test_without_generations_points_come_and_are_told_in_any_order(name: str, space: str) -> None:
    """Seven are always on their way, and the last drawn is told first; the same history restores the same belief."""
    genes, start = SPACES[space]
    row, shuffled = OPTIMIZERS[name], random.Random(0)
    assert row.steady is not None

    def begun() -> Steady:
        optimizer = make(name, genes=genes, start=start)
        optimizer.tell(seen(optimizer.ask(), 0))
        assert row.steady is not None
        return row.steady(optimizer)

    optimizer, flying, history, decided = begun(), list[Point](), Told(), list[dict[str, object]]()
    for number in range(6 if name == "gp" else 40):
        while len(flying) < 7:
            flying.append(optimizer.draw())
            assert all(type(unit) is float and 0.0 <= unit <= 1.0 for unit in flying[-1])
        history += seen([flying.pop(shuffled.randrange(7))], number)
        optimizer.learn(history[-1])
        decided += optimizer.decisions()
    again = begun()
    for each in history:
        again.learn(each)
    assert again.recommend() == optimizer.recommend()
    assert again.decisions() == decided
    assert len({each.point for each in history}) > 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_history_gives_the_same_decisions(name: str) -> None:
    history = advance(make(name, genes=DEEP, start=DEEP_START), few(name, 12))
    decisions = decided(make(name, genes=DEEP, start=DEEP_START), history)
    assert decided(make(name, genes=DEEP, start=DEEP_START), history) == decisions
    assert all("kind" in each for made in decisions for each in made)
    assert json.loads(json.dumps(decisions)) == decisions


@pytest.mark.parametrize("name", [name for name, row in OPTIMIZERS.items() if row.several])
@pytest.mark.parametrize("space", SPACES)
def test_several_objectives_and_floors(name: str, space: str) -> None:
    genes, start = SPACES[space]

    def told(points: Sequence[Point]) -> Told:
        return [
            replace(
                each, values=(each.point[1], 1 - each.point[1] - each.point[2]), violation=max(0, each.point[2] - 0.5)
            )
            for each in seen(points, 0)
        ]

    history: list[Told] = []
    first, second = (make(name, genes=genes, start=start, objectives=2) for _ in range(2))
    for _ in range(few(name, 6)):
        history.append(told(first.ask()))
        first.tell(history[-1])
    assert replay(second, history) == points_of(history)
    # Another machine's arithmetic: the search goes on all the same.
    moved = make(name, genes=genes, start=start, objectives=2)
    replay(moved, [[replace(each, point=tuple(min(1.0, u + 1e-9) for u in each.point)) for each in t] for t in history])
    assert len(moved.ask()) == OPTIMIZERS[name].population(len(genes))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_thousand_genes(name: str) -> None:
    """Every layer, module and source of a large model: asked and told, whatever becomes of it."""
    genes = tuple(Gene(f"weight.a.{i}", parameter="weight", model="a", group="mlp", position=i) for i in range(2000))
    optimizer = OPTIMIZERS[name].make(Problem(genes, ((0.3,) * 2000,), 0, 4, grow=OPTIMIZERS[name].grows))
    history = advance(optimizer, 3)
    assert len(history[-1]) == 4
    assert {len(each.point) for each in history[-1]} == {2000}


@pytest.mark.parametrize("name", ["cma"])
def test_a_given_mean_and_deviations_are_where_it_begins(name: str) -> None:
    for genes, _ in (SPACES["plain"], SPACES["deep"]):
        mean = tuple(0.2 + 0.6 * i / len(genes) for i in range(len(genes)))
        (told,) = advance(make(name, genes=genes, start=(), mean=mean, deviations=(0.002,) * len(genes)), 1)
        for each in told:
            assert [unit for unit, gene in zip(each.point, genes, strict=True) if not gene.choices] == pytest.approx(
                [unit for unit, gene in zip(mean, genes, strict=True) if not gene.choices], abs=0.02
            )
            assert each.point != mean


def test_a_solved_problem_is_still_asked_on() -> None:
    """When CMA-ES has converged it begins anew, says so, keeps what it had found, and replays."""
    history = advance(make("cma", genes=GENES[:2], start=()), 120)
    optimizer = make("cma", genes=GENES[:2], start=())
    assert replay(optimizer, history) == points_of(history)
    decisions = optimizer.decisions()
    assert decisions
    assert {each["kind"] for each in decisions} == {"restart"}
    assert optimizer.decisions() == []
    assert sphere(optimizer.recommend() or ()) > -1e-4


def best_of(name: str, seed: int, trials: int) -> float:
    genes = tuple(Gene(f"g{i}") for i in range(10))
    optimizer = make(name, genes=genes, start=((0.3,) * 10,), seed=seed)
    values: list[float] = []
    while len(values) < trials:
        told = seen(optimizer.ask(), len(values))
        optimizer.tell(told)
        values += [each.value for each in told]
    return max(values[:trials])


def test_cma_beats_random_search_on_a_sphere() -> None:
    cma, uniform = (np.mean([best_of(name, seed, 150) for seed in range(5)]) for name in ("cma", "random"))
    assert cma > uniform / 2  # values are negative distances: at most half of random's, with a population against noise
