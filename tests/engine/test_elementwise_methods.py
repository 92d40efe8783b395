"""SCE, RAM, NearSwap and Arcee Fusion, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.methods import METHODS


def merge(method: str, tensors: list[torch.Tensor], base: torch.Tensor, **chosen: Any) -> torch.Tensor:
    p = {q.name: q.default for q in METHODS[method].parameters} | chosen
    return METHODS[method].reference(tensors, base, p, lambda position: position)


ZERO = torch.zeros(4)


def test_sce_weighs_by_mean_squares_among_those_that_agree() -> None:
    a, b = torch.tensor([2.0, 2.0, -2.0, 0.0]), torch.tensor([4.0, -2.0, 4.0, 0.0])
    # mean squares 3 and 9: weights 1/4 and 3/4; signs +, + (a zero sum counts as +), +, +
    torch.testing.assert_close(merge("sce", [a, b], ZERO), torch.tensor([3.5, 2.0, 4.0, 0.0]))
    tiny = [torch.full((4,), 1e-4), torch.full((4,), 3e-4)]
    torch.testing.assert_close(merge("sce", tiny, ZERO), torch.full((4,), 2e-4))  # too small to tell apart


def test_sce_selects_where_the_models_vary_most() -> None:
    a, b = torch.tensor([2.0, 3.0, -2.0, 1.0]), torch.tensor([4.0, 3.0, 4.0, 1.5])
    # variances 1, 0, 9, 1/16: of the three that vary, int(3 * 0.7) = 2 are kept
    merged = merge("sce", [a, b], ZERO, select_topk=0.7)
    assert (merged != 0).tolist() == [True, False, True, False]
    weights = [8 / 4, 32 / 4]
    want = (2.0 * weights[0] + 4.0 * weights[1]) / sum(weights)
    torch.testing.assert_close(merged, torch.tensor([want, 0.0, 4.0, 0.0]))
    assert torch.equal(merge("sce", [a, b], ZERO, select_topk=0.0), ZERO)
    assert torch.equal(merge("sce", [a], ZERO, select_topk=0.5), ZERO)  # one model does not vary


def test_ram_sums_what_is_unique_and_averages_what_is_shared() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.0, 0.01]), torch.tensor([0.0, 4.0, 0.0, -3.0])
    torch.testing.assert_close(merge("ram", [a, b], ZERO, epsilon=0.01), torch.tensor([1.0, 3.0, 0.0, -3.0]))
    torch.testing.assert_close(merge("ram", [a, b], ZERO), torch.tensor([1.0, 3.0, 0.0, -1.495]))


def test_ramplus_amplifies_what_is_unique_by_its_models_share() -> None:
    a, b = torch.tensor([1.0, 2.0, 0.0, 5.0]), torch.tensor([0.0, 4.0, 3.0, 5.0])
    # each model: 2 shared, 1 unique: rho = 2
    loud = merge("ramplus_tl", [a, b], ZERO, r=0.5, alpha=3.0)
    torch.testing.assert_close(loud, torch.tensor([2.0, 3.0, 6.0, 5.0]))
    clamped = merge("ramplus_tl", [a, b], ZERO, r=0.5, alpha=1.0)
    torch.testing.assert_close(clamped, torch.tensor([1.5, 3.0, 4.5, 5.0]))
    assert torch.equal(merge("ramplus_tl", [a, b], ZERO, r=0.0), merge("ram", [a, b], ZERO))


def test_nearswap_moves_no_element_by_more_than_t() -> None:
    base, x = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.25, -1.0, 1.0])
    torch.testing.assert_close(merge("nearswap", [x], base, t=0.5), torch.tensor([1.25, 0.5, 1.0]))
    assert torch.equal(merge("nearswap", [x], base, t=0.0), base)
    far = torch.randn(100, generator=torch.Generator().manual_seed(0))
    assert (merge("nearswap", [far], torch.zeros(100), t=0.3).abs() <= 0.3 + 1e-6).all()


def test_arcee_fusion_takes_over_important_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(8, 5, generator=generator)
    x = base + 0.01 * torch.randn(8, 5, generator=generator)
    x[3] += torch.tensor([2.0, -2.0, 0.0, 0.0, 1.0])
    merged = merge("arcee_fusion", [x], base)
    p, q = torch.softmax(x, -1) + 1e-8, torch.softmax(base, -1) + 1e-8
    importance = (x - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
    ordered = importance.flatten().sort().values
    threshold = ordered[19] + 1.5 * (ordered[29] - ordered[9])  # floor(q * 39)
    taken = importance >= threshold
    assert 0 < int(taken.sum()) < 40
    torch.testing.assert_close(merged, torch.where(taken, x, base))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_arcee_fusion_of_the_smallest_vectors(n: int) -> None:
    base, x = torch.zeros(n), torch.arange(1.0, n + 1)
    merged = merge("arcee_fusion", [x], base)
    assert all(got in (0.0, want) for got, want in zip(merged.tolist(), x.tolist(), strict=True))
    assert merge("arcee_fusion", [torch.tensor(2.0)], torch.tensor(1.0)).item() == 2.0
