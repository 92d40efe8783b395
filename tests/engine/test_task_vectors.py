from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.methods import METHODS
from engine.methods.della import keep_by_rank
from engine.methods.selection import SORT_BELOW
from engine.methods.task_vectors import keep_random


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def key(position: int) -> int:
    return 0x9E3779B97F4A7C15 + position


def family(method: str, tensors: list[torch.Tensor], base: torch.Tensor, **chosen: Any) -> torch.Tensor:
    """Merge with the defaults, weights of 0.5 and what is chosen; one number stands for all the models."""
    p: dict[str, Any] = {q.name: q.default for q in METHODS[method].parameters} | {"weight": 0.5} | chosen
    for q in METHODS[method].parameters:
        if q.scope != "shared" and not isinstance(p[q.name], tuple):
            p[q.name] = (p[q.name],) * len(tensors)
    return METHODS[method].reference(tensors, base, p, key)


def sparsified(method: str, delta: torch.Tensor, **chosen: Any) -> torch.Tensor:
    """What a method keeps of one task vector."""
    return family(method, [delta], torch.zeros_like(delta), weight=1.0, normalize=False, **chosen)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.25, 1e-40]), min_size=1, max_size=60),
    st.floats(0.001, 0.999),
    st.booleans(),
)
def test_keeps_exactly_the_k_largest(values: list[float], density: float, large: bool) -> None:
    repeat = -(-SORT_BELOW // len(values)) if large else 1
    delta = np.tile(np.array(values, dtype=np.float32), repeat)
    k = max(1, int(density * delta.size))
    wanted = np.zeros(delta.size, dtype=bool)
    wanted[np.argsort(-np.abs(delta), kind="stable")[:k]] = True
    kept = sparsified("ties", torch.from_numpy(delta), density=density).numpy()
    if large:  # ties go to the first by position
        assert np.array_equal(kept, np.where(wanted, delta, 0))
    else:  # ties go where torch's sort puts them
        assert np.array_equal(np.sort(np.abs(kept)), np.sort(np.abs(np.where(wanted, delta, 0))))
        assert np.array_equal(kept[kept != 0], delta[kept != 0])


def test_random_keep_has_its_density_and_its_seed() -> None:
    delta = torch.ones(200_000)
    kept = keep_random(delta, 0.3, key(1))
    assert kept.mean().item() == pytest.approx(0.3, abs=0.005)
    assert torch.equal(kept, keep_random(delta, 0.3, key(1)))
    assert not torch.equal(kept, keep_random(delta, 0.3, key(2)))


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della"])
def test_rescale_restores_the_l1_norm(method: str) -> None:
    delta = torch.randn(40, 25, generator=generator(0))
    plain, rescaled = (sparsified(method, delta, density=0.3, rescale=rescale) for rescale in (False, True))
    assert rescaled.abs().sum().item() == pytest.approx(delta.abs().sum().item(), rel=1e-5)
    torch.testing.assert_close(rescaled, plain * (delta.abs().sum() / plain.abs().sum()))


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs_keeps_a_band_by_hand(method: str) -> None:
    delta = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0], [-6.0, 7.0, -8.0, 9.0, -10.0]])

    def kept(density: float, gamma: float) -> list[float]:
        return sorted(abs(x) for x in sparsified(method, delta, density=density, gamma=gamma).flatten().tolist() if x)

    assert kept(0.5, 0.2) == [4, 5, 6, 7, 8]  # 10 and 9 are outliers, 1 to 3 too small
    assert kept(0.5, 0.0) == [6, 7, 8, 9, 10]
    assert kept(0.9, 0.5) == [1, 2, 3, 4, 5, 6, 7, 8, 9]  # the density comes first
    assert kept(0.05, 0.0) == []  # int(0.05 * 10)
    assert kept(1.0, 0.5) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]  # untouched


@pytest.mark.parametrize("shape", [(4000, 50), (200_000,), (2000, 10, 10)])
def test_della_keeps_by_rank_in_the_row(shape: tuple[int, ...]) -> None:
    delta = torch.rand(shape, generator=generator(3)) + 0.1
    kept = (keep_by_rank(delta, 0.5, 0.3, key(0)) != 0).double()
    assert kept.mean().item() == pytest.approx(0.5, abs=0.01)
    rows = delta.view(1, -1) if delta.ndim == 1 else delta
    rank = rows.argsort(1).argsort(1).double() / (rows.shape[1] - 1)
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = (rank >= low) & (rank < low + 0.25)
        expected = 0.2 + 0.6 * rank[chosen].mean().item()
        assert kept.view(rows.shape)[chosen].mean().item() == pytest.approx(expected, abs=0.015)


def test_della_draws_alike_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    delta = torch.randn(37, 11, generator=generator(3))
    whole = keep_by_rank(delta, 0.5, 0.2, key(0))
    monkeypatch.setattr("engine.methods.della.CHUNK", 40)
    assert torch.equal(keep_by_rank(delta, 0.5, 0.2, key(0)), whole)


def test_della_of_rows_of_one_element_keeps_the_density() -> None:
    kept = keep_by_rank(torch.ones(100_000, 1), 0.4, 0.3, key(0))
    assert kept.mean().item() == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.15), (0.15, 0.15), (0.9, 0.15), (0.5, 0.6)])
def test_della_refuses_what_are_no_probabilities(density: float, epsilon: float) -> None:
    with pytest.raises(RecipeError, match=f"density {density:g} with epsilon {epsilon:g}"):
        sparsified("della", torch.ones(4, 4), density=density, epsilon=epsilon)


def tensors(k: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    rng = generator(7)
    base = torch.randn(31, 9, generator=rng)
    return [base + torch.randn(31, 9, generator=rng) for _ in range(k)], base


FAMILY = ["ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear"]


@pytest.mark.parametrize("method", FAMILY)
def test_one_model_of_density_one_is_task_arithmetic(method: str) -> None:
    models, base = tensors(1)
    want = family("task_arithmetic", models, base)
    torch.testing.assert_close(family(method, models, base, normalize=False), want)


@pytest.mark.parametrize("method", FAMILY)
def test_density_one_drops_nothing_and_density_zero_all(method: str) -> None:
    models, base = tensors(3)
    plain = "task_arithmetic" if method in ("dare_linear", "breadcrumbs", "della_linear") else "ties"
    for normalize in (True, False):
        want = family(plain, models, base, normalize=normalize)
        assert torch.equal(family(method, models, base, normalize=normalize), want)
        assert torch.equal(family(method, models, base, normalize=normalize, density=0.0), base)


def test_normalize_divides_by_the_weights_that_take_part() -> None:
    models, base = tensors(2)
    plain = family("task_arithmetic", models, base, weight=(0.5, 1.5)) - base
    normal = family("task_arithmetic", models, base, weight=(0.5, 1.5), normalize=True) - base
    torch.testing.assert_close(normal, plain / 2.0)
    zero = family("task_arithmetic", models, base, weight=(1.0, -1.0), normalize=True)
    torch.testing.assert_close(zero, family("task_arithmetic", models, base, weight=(1.0, -1.0)))


def test_ties_elects_signs_by_hand() -> None:
    base = torch.zeros(4)
    a, b = torch.tensor([1.0, -3.0, 2.0, 0.0]), torch.tensor([3.0, 1.0, -2.0, 0.0])
    # signs +, -, + (a zero sum counts as +), +; only those that agree are averaged
    assert family("ties", [a, b], base, weight=(1.0, 1.0)).tolist() == [2.0, -3.0, 2.0, 0.0]
    # a negative weight turns a's vote: sums 2, 4, -4, 0
    assert family("ties", [a, b], base, weight=(-1.0, 1.0), normalize=False).tolist() == [3.0, 4.0, -4.0, 0.0]
    assert family("ties", [a, b], base, weight=(1.0, 1.0), **{"lambda": 2.0}).tolist() == [4.0, -6.0, 4.0, 0.0]
