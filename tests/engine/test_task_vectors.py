from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.methods import METHODS
from engine.methods.task_vectors import SORT_BELOW, keep_largest, keep_random, match_l1


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def key(position: int) -> int:
    return 0x9E3779B97F4A7C15 + position


def family(method: str, tensors: list[torch.Tensor], base: torch.Tensor, **chosen: Any) -> torch.Tensor:
    p: dict[str, Any] = {q.name: q.default for q in METHODS[method].parameters}
    p |= {"density": (1.0,) * len(tensors), "weight": (0.5,) * len(tensors)} | chosen
    return METHODS[method].reference(tensors, base, p, key)


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
    kept = keep_largest(torch.from_numpy(delta), density).numpy()
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


def test_rescale_restores_the_l1_norm() -> None:
    delta = torch.randn(1000, generator=generator(0))
    kept = match_l1(keep_largest(delta, 0.2), delta)
    assert kept.abs().sum().item() == pytest.approx(delta.abs().sum().item(), rel=1e-5)
    assert torch.equal(match_l1(torch.zeros(4), torch.ones(4)), torch.zeros(4))


def tensors(k: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    rng = generator(7)
    base = torch.randn(31, 9, generator=rng)
    return [base + torch.randn(31, 9, generator=rng) for _ in range(k)], base


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_one_model_of_density_one_is_task_arithmetic(method: str) -> None:
    models, base = tensors(1)
    want = family("task_arithmetic", models, base)
    torch.testing.assert_close(family(method, models, base, normalize=False), want)


@pytest.mark.parametrize(("dare", "plain"), [("dare_linear", "task_arithmetic"), ("dare_ties", "ties")])
def test_dare_of_density_one_drops_nothing(dare: str, plain: str) -> None:
    models, base = tensors(3)
    for normalize in (True, False):
        want = family(plain, models, base, normalize=normalize)
        assert torch.equal(family(dare, models, base, normalize=normalize), want)


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


def test_slerp_by_hand() -> None:
    slerp = METHODS["slerp"].reference
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    half = 2**-0.5
    torch.testing.assert_close(slerp([b], a, {"t": 0.5}, key), torch.tensor([half, 2 * half]))
    torch.testing.assert_close(slerp([b], a, {"t": 0.0}, key), a)
    torch.testing.assert_close(slerp([b], a, {"t": 1.0}, key), b)
    opposite = slerp([-a], a, {"t": 0.25}, key)
    torch.testing.assert_close(opposite, 0.5 * a)
