"""What every row of KERNELS must hold: the reference's bits, for any dtype and shape, piece by piece, in threads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba.core.dispatcher
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import engine.execute
import engine.operands
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.errors import NonFiniteError, RecipeError
from engine.execute import Executor, run_reference
from engine.job import Input, Job
from engine.kept import Kept
from engine.kernels.magnitudes import ALL, Values, count
from engine.kernels.table import KERNELS
from engine.kernels.words import compiled
from engine.merge import merge, merge_into
from engine.methods import METHODS
from engine.methods.selection import SORT_BELOW
from engine.operands import Operands, pieces_of
from engine.plan import SMALL, plan
from engine.recipe import Recipe
from engine.write import write_checkpoint

BF16, F16, F32, F64, F8 = torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn
SHAPES = [(), (1,), (3,), (5, 7), (1, 6), (6, 1), (130, 129), (90, 100), (3, 4, 50), (10, 20, 70), (9000,)]
MANY_PIECES = [(700, 40), (3000,), (600, 5, 7)]
# (name, dtype of the base, dtypes of the sources, dtype of the result)
WORDS = [
    ("bfloat16", BF16, [BF16] * 3, BF16),
    ("float32", F32, [F32] * 2, F32),
    ("bfloat16 base", BF16, [F32] * 3, BF16),
    ("mixed sources", BF16, [F16, BF16, F32], BF16),
    ("float16", F16, [F16] * 2, F16),
    ("float8", F8, [F8] * 2, F16),
]
LOOPS = ["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "della", "sce", "ramplus_tl"]
"""Methods that have all loops between them: numba compiles a loop for every number of sources and every dtype."""
rows = pytest.mark.parametrize("method", KERNELS)


def name_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def spread(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.mul(8.0 if dtype == F8 else 1.0).to(dtype)  # float8 knows few numbers below 0.1


def model(folder: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(str(folder))


def content(shape: tuple[int, ...], source: int) -> torch.Tensor:
    """A base (0), fine-tunes of it, some of whose elements are unchanged, equally far from the base, or -0."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    base = 0.02 * torch.randn(shape, generator=generator)
    flat = base.view(-1)
    flat[::13], flat[1::26] = 0.0, -0.0
    if source == 0:
        return base
    generator.manual_seed(1000 * source + math.prod(shape))
    change = 0.002 * torch.randn(shape, generator=generator)
    change = torch.where(torch.rand(shape, generator=generator) < 0.3, (change * 500).round() / 500, change)
    changed = base + change
    kept = torch.rand(shape, generator=generator) < 0.2
    changed[kept] = base[kept]
    changed.view(-1)[5::39] = -0.0
    return changed


class Models:
    """A base and its sources, with a tensor of every shape, one that is constant and one that never changed."""

    def __init__(self, root: Path, base: torch.dtype, sources: list[torch.dtype]) -> None:
        shapes = [*SHAPES, *MANY_PIECES]
        self.shapes = {name_of(shape): shape for shape in shapes} | {"constant": (100, 90), "equal": (100, 90)}
        self.opened = [
            model(root / str(i), {name: self._tensor(name, i, dtype) for name in self.shapes})
            for i, dtype in enumerate([base, *sources])
        ]

    def _tensor(self, name: str, i: int, dtype: torch.dtype) -> torch.Tensor:
        if name == "constant":
            return torch.full(self.shapes[name], 0.25 + 0.125 * (i % 3)).to(dtype)
        return spread(content(self.shapes[name], 0 if name == "equal" else i), dtype)

    def job(self, method: str, name: str, out: torch.dtype, chosen: dict[str, Any], work: torch.dtype = F32) -> Job:
        row, shape = METHODS[method], self.shapes[name]
        most = row.inputs[1] or len(self.opened)
        inputs = [Input(checkpoint, name, shape) for checkpoint in self.opened[1 : 1 + most]]
        while len(inputs) < row.inputs[0]:
            inputs.append(inputs[-1])
        base = Input(self.opened[0], name, shape) if row.base != "ignored" else None
        parameters = {p.name: self._value(p, chosen, len(inputs)) for p in row.parameters}
        return Job(name, row, tuple(inputs), base, parameters, shape, out, work, 7)

    @staticmethod
    def _value(parameter: Any, chosen: dict[str, Any], k: int) -> Any:
        value = chosen.get(parameter.name, 0.4 if parameter.required else parameter.default)
        if parameter.scope == "shared":
            return value
        return tuple(value[i % len(value)] for i in range(k)) if isinstance(value, tuple) else (value,) * k


class Collected:
    """A sink that keeps what it is given, as a user of the executor would."""

    def __init__(self, job: Job) -> None:
        self.tensor = torch.full((math.prod(job.shape),), 3.0, dtype=job.dtype)

    def room(self, job: Job, begin: int, end: int) -> torch.Tensor:
        return self.tensor[begin:end]

    def put(self, job: Job, begin: int, merged: torch.Tensor) -> None:
        self.tensor[begin : begin + merged.numel()] = merged


def by_kernel(job: Job) -> torch.Tensor:
    sink = Collected(job)
    Executor().run([job], sink)
    return sink.tensor


def words(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])


def variants(method: str) -> list[dict[str, Any]]:
    names = {parameter.name for parameter in METHODS[method].parameters}
    if method.startswith("della"):
        density: dict[str, Any] = {"density": (0.4, 1.0, 0.0, 0.7), "epsilon": (0.15, 0.2, 0.1, 0.0)}
    else:
        density = {"density": (0.3, 1.0, 1e-6, 0.0, 0.7), "gamma": (0.05, 0.0, 0.9)}
    task = {"weight": (0.7, -0.3, 0.4), "lambda": 0.7}
    if "density" in names and method != "task_arithmetic":
        plain = {"density": 0.6, "rescale": False, "normalize": True}
        return [plain, {**density, **task, "rescale": True, "normalize": False}, {**plain, "density": 0.5, **task}]
    return {
        "sce": [{}, {"select_topk": 0.4}, {"select_topk": 0.0}],
        "ram": [{}, {"epsilon": 2e-3}],
        "ramplus_tl": [{}, {"epsilon": 2e-3, "alpha": 4.0}],
        "nearswap": [{"t": 0.001}, {"t": 0.0}],
        "slerp": [{"t": 0.3}],
        "linear": [{"weight": (0.3, 0.9, -0.1)}, {"normalize": False}],
        "task_arithmetic": [{}, {**task, "normalize": True}],
    }.get(method, [{}])


def sums_decide(job: Job) -> bool:
    """Whether a sum in float64, whose last bits depend on its order, decides a factor."""
    combination = job.method.combination if job.method else None
    weighs = combination is not None and combination.gram
    return weighs or job.method is METHODS["sce"] or bool(job.parameters.get("rescale"))


def check(job: Job) -> None:
    got, want = by_kernel(job), run_reference(job, "cpu").flatten()
    assert got.dtype == want.dtype == job.dtype
    same = words(got) == words(want)
    if sums_decide(job):  # then a unit in the last place of the largest element
        unit = float(want.abs().max().float()) * torch.finfo(job.dtype).eps
        same |= (got.float() - want.float()).abs() <= unit
    assert bool(same.all()), f"{job.name}: {int((~same).sum())} of {same.numel()} differ, {dict(job.parameters)}"


def declines(job: Job) -> bool:
    """What kernels leave to the references."""
    assert job.method is not None
    if job.method.name.startswith("della") and len(job.shape) > 2:
        return True
    selecting = job.method.name == "sce" and job.parameters["select_topk"] < 1.0
    return selecting and math.prod(job.shape) < SORT_BELOW


@pytest.fixture(scope="module", params=WORDS, ids=[case[0] for case in WORDS])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Models, torch.dtype]:
    _, base, sources, out = request.param
    return Models(tmp_path_factory.mktemp("models"), base, sources), out


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"), BF16, [BF16] * 3)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@rows
def test_kernel_gives_the_references_bits(method: str, case: tuple[Models, torch.dtype]) -> None:
    opened, out = case
    for name in [*map(name_of, SHAPES), "constant", "equal"]:
        for chosen in variants(method):
            check(opened.job(method, name, out, chosen))


@pytest.fixture(scope="module", params=[(1, F32), (5, BF16)], ids=["one source", "five sources"])
def counted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Models, torch.dtype]:
    count, out = request.param
    return Models(tmp_path_factory.mktemp("models"), BF16, [BF16] * count), out


@pytest.mark.parametrize("method", LOOPS)
def test_any_number_of_sources(method: str, counted: tuple[Models, torch.dtype]) -> None:
    opened, out = counted
    for name in ("1", "5x7", "130x129"):
        for chosen in variants(method):
            check(opened.job(method, name, out, chosen))


@rows
def test_few_parameters_are_left_to_the_reference(method: str, models: Models) -> None:
    for name in map(name_of, SHAPES):
        for chosen in variants(method):
            job = models.job(method, name, BF16, chosen)
            operands = Operands(job, lambda f, pieces: [f(*piece) for piece in pieces], None)
            assert (KERNELS[method](operands, job.parameters, job.key) is None) == declines(job), (name, chosen)


@rows
def test_pieces_and_threads_change_no_bit(
    method: str, models: Models, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.operands, "PIECE", 1)
    monkeypatch.setattr(engine.execute, "LARGE", 1)
    for name in map(name_of, MANY_PIECES):
        for chosen in variants(method):
            job = models.job(method, name, BF16, chosen)
            assert len(pieces_of(job)) > 2
            check(job)
            alone = by_kernel(job)
            torch.set_num_threads(2)
            together = by_kernel(job)
            torch.set_num_threads(1)
            assert torch.equal(words(alone), words(together))


@rows
def test_float64_is_left_to_the_reference(method: str, models: Models) -> None:
    for chosen in variants(method):
        job = models.job(method, "130x129", F64, chosen, work=F64)
        assert torch.equal(by_kernel(job), run_reference(job, "cpu").flatten())


@pytest.fixture(scope="module", params=[math.nan, math.inf, -math.inf])
def broken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    """Models, the second of which has one element that is not finite."""
    opened = []
    for i in range(4):
        tensors = {name: content((90, 100), i).to(BF16) for name in ("first", "last")}
        if i == 1:
            tensors["first"][0, 0] = tensors["last"][89, 99] = request.param
        opened.append(model(tmp_path_factory.mktemp("broken") / "model", tensors))
    return opened


@rows
def test_what_is_not_finite_is_told(method: str, broken: list[Checkpoint], models: Models) -> None:
    for name in ("first", "last"):
        for chosen in variants(method):
            job = models.job(method, "90x100", BF16, chosen)
            inputs = tuple(Input(broken[1 + i % 3], name, (90, 100)) for i in range(len(job.inputs)))
            base = Input(broken[0], name, (90, 100)) if job.base else None
            bad = Job(name, job.method, inputs, base, job.parameters, job.shape, job.dtype, job.work_dtype, 7)
            sink = Collected(bad)
            with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
                Executor(check_sources=True).run([bad], sink)
            if not method.startswith(("dare", "breadcrumbs")):  # these drop some elements whatever their size
                with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
                    Executor().run([bad], sink)


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_refuses_what_is_no_probability(method: str, models: Models) -> None:
    job = models.job(method, "130x129", BF16, {"density": 0.9, "epsilon": 0.2})
    with pytest.raises(RecipeError, match=f"130x129: {method}: density 0.9 with epsilon 0.2"):
        by_kernel(job)


def recipe_of(method: str, folders: list[str], second: bool) -> Recipe:
    """Two candidates of one search."""
    row = METHODS[method]
    count = 1 if row.inputs[1] == 1 else 3 if row.inputs[1] is None else row.inputs[1]
    names = {p.name: p for p in row.parameters}
    own = {"weight": 0.3, "density": 0.5, "epsilon": 0.1}
    if second:
        own = {"weight": 0.8, "density": 0.7, "epsilon": 0.2}
    shared = {"t": 0.002 if second else 0.4, "select_topk": 0.3 if second else 0.6}
    mine = {key: value for key, value in own.items() if key in names and names[key].scope != "shared"}
    ours = {key: value for key, value in shared.items() if key in names}
    content: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": folder, "parameters": mine} for folder in folders[1 : 1 + count]],
        "parameters": ours,
        "dtype": "bfloat16",
    }
    if row.base != "ignored":
        content["base_model"] = folders[0]
    return Recipe.model_validate(content)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = []
    shapes = {"model.embed_tokens.weight": (500, 400), "model.norm.weight": (400,)}
    shapes |= {"model.layers.0.mlp.up_proj.weight": (300, 400), "model.layers.0.input_layernorm.weight": (400,)}
    assert sum(math.prod(shape) for shape in shapes.values()) > SMALL
    for i in range(4):
        folder = tmp_path_factory.mktemp("whole") / "model"
        model(folder, {name: content(shape, i).to(BF16) for name, shape in shapes.items()})
        made.append(str(folder))
    return made


@pytest.mark.parametrize("method", METHODS)
def test_what_is_scored_is_what_is_written(method: str, folders: list[str], tmp_path: Path) -> None:
    opened = {folder: open_checkpoint(folder) for folder in folders}
    kept = Kept(1 << 30)
    for second in (False, True):
        made = plan(recipe_of(method, folders, second), opened)
        assert made.kernels
        live = {job.name: torch.zeros(job.shape, dtype=job.dtype) for job in made.jobs}
        merge_into(made, live, device="cpu", kept=kept)
        out = tmp_path / f"out {second}"
        write_checkpoint(plan(made.recipe, {f: open_checkpoint(f) for f in folders}), out)
        written = open_checkpoint(str(out))
        for name, tensor in live.items():
            assert np.array_equal(words(tensor).numpy(), words(written.read(name)).numpy()), name


def test_all_threads_fill_one_tensor(folders: list[str], threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.operands, "PIECE", 1000)
    monkeypatch.setattr(engine.execute, "LARGE", 1000)
    recipe = recipe_of("linear", folders, second=False)
    made = plan(recipe, {reference: open_checkpoint(reference) for reference in recipe.references})
    alone = dict(merge(made))
    torch.set_num_threads(4)
    for _ in range(5):
        assert all(torch.equal(alone[name], merged) for name, merged in merge(made))
    assert torch.get_num_threads() == 4


def test_what_is_kept_of_models_is_kept_of_their_base_too(models: Models) -> None:
    """The same models, now with the first as the base and now as a source: other angles."""
    kept = Kept(0)
    with_base = models.job("multislerp", "130x129", BF16, {})
    assert with_base.base is not None
    without = replace(with_base, base=None, inputs=(with_base.base, *with_base.inputs))
    without = replace(without, parameters=with_base.parameters | {"weight": (0.4,) * 4})
    for job in (with_base, without, with_base):
        sink = Collected(job)
        Executor(kept=kept).run([job], sink)
        assert torch.equal(words(sink.tensor), words(by_kernel(job)))


def test_tensors_of_more_dimensions_have_pieces(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.operands, "PIECE", 100)
    pieces = pieces_of(models.job("linear", "10x20x70", BF16, {}))
    assert len(pieces) == 200
    assert all(end - begin == 70 for begin, end in pieces)


def test_loops_are_compiled_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba.core.dispatcher.Dispatcher, "enable_caching", refuse)
    assert compiled(lambda x: x + 1)(1) == 2


def test_many_zeros_are_not_collected() -> None:
    """Float32 sources that changed little: the k-th magnitude is 0, and so are most."""
    x = np.zeros(50_000, np.float32)
    x[::10] = np.random.default_rng(0).normal(size=5000)
    values = Values(lambda begin, end: (None, x[begin:end]), [(0, len(x))], lambda f, ps: [f(*piece) for piece in ps])
    table = count(values)
    assert table.buckets or len(table.words) > 1
    assert table.cut(20_000, values) == ALL
    cut = table.cut(3000, values)
    assert int((np.abs(x) > cut.magnitude).sum() + (np.abs(x[: cut.position]) == cut.magnitude).sum()) == 3000
