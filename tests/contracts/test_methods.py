"""What every row of METHODS must hold; a new row is tested here unasked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.job import Job
from engine.methods import METHODS
from engine.methods.combination import NO_GRAM, gram_matrix
from engine.methods.method import Method

SHAPES = [(), (1,), (3,), (1, 3), (3, 1), (0,), (4, 0), (5, 7), (2, 3, 4), (130, 129)]
rows = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


Inputs = tuple[list[torch.Tensor], torch.Tensor | None]


def inputs(method: Method, shape: tuple[int, ...], k: int = 3) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    low, high = method.inputs
    count = max(low, k if high is None else min(k, high))
    base = torch.randn(shape, generator=generator)
    tensors = [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]
    return tensors, base if method.base != "ignored" else None


def values(method: Method, count: int, **chosen: Any) -> dict[str, Any]:
    """Defaults, and for required parameters something within the bounds of the search."""
    if method.name in ("della", "della_linear") and isinstance(density := chosen.get("density"), float):
        chosen.setdefault("epsilon", min(density, 1.0 - density) / 2)  # density +- epsilon must be probabilities
    got: dict[str, Any] = {}
    for parameter in method.parameters:
        value = chosen.get(parameter.name, parameter.default)
        if value is None and parameter.required:
            value = 0.4
        if parameter.scope == "shared":
            got[parameter.name] = value
        else:
            got[parameter.name] = value if isinstance(value, tuple) else (value,) * count
    return got


def with_and_without_base(method: Method, shape: tuple[int, ...]) -> list[Inputs]:
    tensors, base = inputs(method, shape)
    return [(tensors, base), (tensors, None)] if method.base == "optional" else [(tensors, base)]


def run(method: Method, tensors: list[torch.Tensor], base: torch.Tensor | None, seed: int = 0, **chosen: Any) -> Any:
    job = Job("x.weight", method, (), None, {}, (), torch.float32, torch.float32, seed)
    return method.reference(tensors, base, values(method, len(tensors), **chosen), job.key)


@rows
def test_row_is_complete(method: Method) -> None:
    assert METHODS[method.name] is method
    assert method.paper
    assert method.reference.__doc__  # type: ignore[attr-defined]
    if method.combination is not None:
        assert (method.combination.of == "inputs") == (method.base == "ignored")
    names = [parameter.name for parameter in method.parameters]
    assert len(set(names)) == len(names)
    for parameter in method.parameters:
        assert parameter.doc
        assert (parameter.low is None) == (parameter.high is None)
        if parameter.low is not None and parameter.high is not None:
            assert parameter.low < parameter.high
            assert parameter.kind is float
            assert parameter.typed(parameter.low) == parameter.low
            assert parameter.typed(parameter.high) == parameter.high
        if parameter.default is not None:
            assert parameter.typed(parameter.default) == parameter.default
            assert type(parameter.typed(parameter.default)) is parameter.kind


@rows
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 1e-6, 0.5, 1.0])
def test_shape_dtype_finite_and_inputs_untouched(method: Method, shape: tuple[int, ...], density: float) -> None:
    for dtype in (torch.float32, torch.float64):
        for tensors, base in with_and_without_base(method, shape):
            tensors = [tensor.to(dtype) for tensor in tensors]
            base = base if base is None else base.to(dtype)
            before = [tensor.clone() for tensor in [*tensors, *([] if base is None else [base])]]
            merged = run(method, tensors, base, density=density)
            assert merged.shape == shape
            assert merged.dtype == dtype
            assert torch.isfinite(merged).all()
            after = [*tensors, *([] if base is None else [base])]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@rows
@pytest.mark.parametrize("shape", [(), (1,), (0,), (6, 4)])
def test_extremes_of_every_parameter_stay_finite(method: Method, shape: tuple[int, ...]) -> None:
    """Both ends of what may be said and of what a search says, and both words of a switch, one at a time."""
    for parameter in method.parameters:
        ends = {parameter.low, parameter.high, parameter.least, parameter.most}
        for value in (True, False) if parameter.kind is bool else sorted(ends - {None}):  # type: ignore[type-var]
            chosen = {parameter.name: parameter.typed(value)}
            if method.name == "linear" and parameter.name == "weight" and value == 0:
                chosen["normalize"] = False
            for tensors, base in with_and_without_base(method, shape):
                for equal in (False, True):
                    given = [tensors[0].clone() for _ in tensors] if equal else tensors
                    start = tensors[0].clone() if equal and base is not None else base
                    merged = run(method, given, start, **chosen)
                    assert merged.shape == shape
                    assert torch.isfinite(merged).all(), chosen


@rows
def test_rows_of_their_own_angle_stay_finite(method: Method) -> None:
    switches = [p.name for p in method.parameters if p.kind is bool and p.name != "int8_mask"]
    for shape in SHAPES:
        for tensors, base in with_and_without_base(method, shape):
            for value in (True, False):
                merged = run(method, tensors, base, density=0.5, **dict.fromkeys(switches, value))
                assert merged.shape == shape
                assert torch.isfinite(merged).all()


@rows
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_vanish(method: Method, value: float) -> None:
    """A merge that a source's broken weights went into must show it; nothing is raised on the way."""
    tensors, base = inputs(method, (5, 4))
    tensors[0][2, 1] = value
    merged = run(method, tensors, base)
    assert merged.shape == (5, 4)
    if method.name not in ("nearswap", "arcee_fusion"):  # these may leave the element away
        assert not torch.isfinite(merged).all()


@rows
def test_a_combination_is_its_coefficients(method: Method) -> None:
    row = method.combination
    if row is None:
        pytest.skip("not declared")
    for tensors, base in with_and_without_base(method, (20, 30)):
        p = values(method, len(tensors))
        assert row.whole(p)
        vectors = {
            "inputs": tensors,
            "base and inputs": [base, *tensors],
            "deltas": tensors if base is None else [x - base for x in tensors],
        }[row.of]
        gram = gram_matrix(vectors) if row.gram else NO_GRAM
        want = sum(c * v.double() for c, v in zip(row.weigh(gram, p), vectors, strict=True))
        if row.of == "deltas" and base is not None:
            want = want + base
        torch.testing.assert_close(run(method, tensors, base), want.float())


@rows
@pytest.mark.parametrize("shape", SHAPES)
def test_zeros_and_zero_deltas_stay_finite(method: Method, shape: tuple[int, ...]) -> None:
    for tensors, base in with_and_without_base(method, shape):
        for fill in (torch.zeros(shape), tensors[0]):
            merged = run(method, [fill.clone() for _ in tensors], None if base is None else fill.clone(), density=0.5)
            torch.testing.assert_close(merged, fill)


@rows
def test_same_seed_same_bits(method: Method) -> None:
    tensors, base = inputs(method, (64, 33))
    first, again = (run(method, tensors, base, seed=3, density=0.5) for _ in range(2))
    torch.manual_seed(99)
    assert torch.equal(first, again)
    assert torch.equal(first, run(method, tensors, base, seed=3, density=0.5))


@rows
def test_layout_of_the_input_does_not_matter(method: Method) -> None:
    tensors, base = inputs(method, (40, 50))
    turned = [tensor.T.contiguous().T for tensor in tensors]
    want = run(method, tensors, base, density=0.5)
    torch.testing.assert_close(run(method, turned, base, density=0.5), want)


@rows
def test_identity(method: Method) -> None:
    if "identity" not in method.invariants:
        pytest.skip("not declared")
    for tensors, base in with_and_without_base(method, (20, 30)):
        same = [tensors[0].clone() for _ in tensors]
        merged = run(method, same, None if base is None else tensors[0].clone(), density=0.5)
        torch.testing.assert_close(merged, tensors[0])


@rows
def test_order(method: Method) -> None:
    if "order" not in method.invariants:
        pytest.skip("not declared")
    for tensors, base in with_and_without_base(method, (20, 30)):
        weight, density = (0.2, 0.5, 0.9)[: len(tensors)], (0.3, 0.6, 0.8)[: len(tensors)]
        merged = run(method, tensors, base, weight=weight, density=density)
        turned = run(method, tensors[::-1], base, weight=weight[::-1], density=density[::-1])
        torch.testing.assert_close(merged, turned)


@rows
def test_scale(method: Method) -> None:
    if "scale" not in method.invariants:
        pytest.skip("not declared")
    for tensors, base in with_and_without_base(method, (20, 30)):
        merged = run(method, tensors, base, density=0.5)
        scaled = run(method, [4 * tensor for tensor in tensors], base if base is None else 4 * base, density=0.5)
        torch.testing.assert_close(scaled, 4 * merged)
