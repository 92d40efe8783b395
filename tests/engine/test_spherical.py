"""The methods that weigh whole tensors by their angles, by hand and against the formulas on the tensors themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from engine.errors import RecipeError
from engine.methods import METHODS


def merge(method: str, tensors: list[torch.Tensor], base: torch.Tensor | None = None, **chosen: Any) -> torch.Tensor:
    p = {q.name: q.default for q in METHODS[method].parameters} | chosen
    return METHODS[method].reference(tensors, base, p, lambda position: position)


def models(k: int, *shape: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    common = torch.randn(shape, generator=generator)
    return [common + torch.randn(shape, generator=generator) for _ in range(k)]


HALF = 2**-0.5
EAST, NORTH = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])


def test_slerp_by_hand() -> None:
    torch.testing.assert_close(merge("slerp", [NORTH], EAST, t=0.5), torch.tensor([HALF, 2 * HALF]))
    torch.testing.assert_close(merge("slerp", [NORTH], EAST, t=0.0), EAST)
    torch.testing.assert_close(merge("slerp", [NORTH], EAST, t=1.0), NORTH)
    torch.testing.assert_close(merge("slerp", [-EAST], EAST, t=0.25), 0.5 * EAST)


def test_nuslerp_is_slerp_by_shares_of_the_weights() -> None:
    a, b = models(2, 6, 5)
    want = merge("slerp", [b], a, t=0.25)
    torch.testing.assert_close(merge("nuslerp", [a, b], weight=(0.6, 0.2)), want)
    torch.testing.assert_close(merge("nuslerp", [a, b], weight=(0.5, -0.5)), merge("slerp", [b], a, t=0.5))
    base = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    want = base + merge("slerp", [b - base], a - base, t=0.25)
    torch.testing.assert_close(merge("nuslerp", [a, b], base, weight=(0.6, 0.2)), want)


def test_nuslerp_of_opposite_models_stays_on_the_line() -> None:
    (a,) = models(1, 300)
    torch.testing.assert_close(merge("nuslerp", [a, -a], weight=(0.75, 0.25)), 0.5 * a)


@pytest.mark.parametrize("row_wise", [False, True])
def test_nuslerp_rows_have_angles_of_their_own(row_wise: bool) -> None:
    a, b = models(2, 6, 5)
    merged = merge("nuslerp", [a, b], weight=(0.6, 0.2), nuslerp_flatten=False, nuslerp_row_wise=row_wise)
    turned = (lambda x: x.T) if row_wise else (lambda x: x)
    for got, first, second in zip(turned(merged), turned(a), turned(b), strict=True):
        torch.testing.assert_close(got, merge("nuslerp", [first, second], weight=(0.6, 0.2)))


def test_multislerp_follows_the_map_on_the_sphere() -> None:
    """The formulas as they stand, tangent space and all."""
    tensors, w, eps = models(3, 40), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), 0.05
    t = torch.stack(tensors).double()
    n = t.norm(dim=1)
    u = t / (n + eps)[:, None]
    m = (w[:, None] * u).sum(0)
    m = m / m.norm()
    v = (w[:, None] * (u - (u @ m)[:, None] * m)).sum(0)
    length = v.norm() + eps
    want = (m * math.cos(length) + v * math.sin(length) / length) * (w * n).sum()
    torch.testing.assert_close(merge("multislerp", tensors, weight=(1.0, 0.6, 0.4), eps=eps), want.float())


def test_multislerp_of_directions_that_cancel_out() -> None:
    (a,) = models(1, 50)
    torch.testing.assert_close(merge("multislerp", [a, -3 * a], weight=(0.5, 0.5)), -a)
    turn = torch.tensor([[-0.5, -(3**0.5) / 2], [3**0.5 / 2, -0.5]])
    with pytest.raises(RecipeError, match="multislerp: the directions cancel out"):
        merge("multislerp", [EAST, turn @ EAST, turn @ turn @ EAST], weight=(1.0, 1.0, 1.0))
    with pytest.raises(RecipeError, match=r"multislerp: the weights .* set normalize_weights: false"):
        merge("multislerp", [EAST, NORTH], weight=(1.0, -1.0))


def test_karcher_by_hand() -> None:
    torch.testing.assert_close(merge("karcher", [EAST, NORTH]), 1.5 * torch.tensor([HALF, HALF]))
    torch.testing.assert_close(merge("karcher", [EAST, torch.zeros(2)]), 0.5 * EAST)  # without a direction
    torch.testing.assert_close(merge("karcher", [EAST, -3 * EAST]), 2 * EAST)  # none between opposites: the first's


def test_karcher_is_where_the_tangents_cancel() -> None:
    tensors = models(4, 60)
    mean = merge("karcher", tensors, max_iter=100, tol=1e-9).double()
    lengths = torch.stack(tensors).double().norm(dim=1)
    assert mean.norm().item() == pytest.approx(lengths.mean().item(), rel=1e-6)
    m = mean / mean.norm()
    total = torch.zeros_like(m)
    for x in tensors:
        u = x.double() / x.double().norm()
        cosine = (u @ m).item()
        total += math.acos(cosine) / math.sqrt(1 - cosine**2) * (u - cosine * m)
    assert total.norm().item() < 1e-5
    assert not torch.equal(merge("karcher", tensors, max_iter=0), merge("karcher", tensors, max_iter=1))


def test_model_stock_by_hand() -> None:
    base = torch.tensor([1.0, 1.0])
    # at right angles c = 0: stay with the base; the same way c = 1: go all the way to the mean
    torch.testing.assert_close(merge("model_stock", [base + EAST, base + NORTH], base), base)
    torch.testing.assert_close(merge("model_stock", [base + EAST, base + 3 * EAST], base), base + 2 * EAST)
    # 60 degrees: c = 1/2, t = 2 (1/2) / (1 + 1/2)
    slanted = torch.tensor([0.5, 3**0.5 / 2])
    want = base + 2 / 3 * (EAST + slanted) / 2
    torch.testing.assert_close(merge("model_stock", [base + EAST, base + slanted], base), want)
    # opposite: the divisor is 0, and so is t
    torch.testing.assert_close(merge("model_stock", [base + EAST, base - EAST], base), base)


def test_model_stock_by_rows() -> None:
    a, b, c, base = models(4, 6, 5)
    merged = merge("model_stock", [a, b, c], base, filter_wise=True)
    for i in range(6):
        torch.testing.assert_close(merged[i], merge("model_stock", [a[i], b[i], c[i]], base[i]))
