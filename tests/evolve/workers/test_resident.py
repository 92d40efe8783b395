"""The resident module holds what the written checkpoint holds, bit for bit, whatever was in it before."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.checkpoint import open_checkpoint
from engine.errors import NonFiniteError, OutputError
from engine.plan import Plan, plan
from engine.recipe import Recipe
from engine.write import write_checkpoint
from evolve.config.search_yaml import SearchConfig
from evolve.trial import Failure, Job
from evolve.workers import evaluator as evaluator_module
from evolve.workers import resident
from evolve.workers.evaluator import Evaluator
from evolve.workers.resident import Resident
from tasks.score import Score

DEMO = Path(__file__).parents[3] / "tasks" / "demo"
BASE, REVERSE, SORT = (str(DEMO / "models" / name) for name in ("base", "reverse", "sort"))
Weights = dict[str, torch.Tensor]


def recipe(method: str, *models: str, base: str | None = BASE, **content: Any) -> Recipe:
    settings = {"weight": 0.6, "density": 0.7} if method in ("ties", "dare_ties") else {"weight": 0.6}
    own = {} if method in ("slerp", "passthrough") else {"parameters": settings}
    data = {"merge_method": method, "models": [{"model": model, **own} for model in models], "dtype": "float32"}
    return Recipe.model_validate(data | ({"base_model": base} if base else {}) | {"out_dtype": "bfloat16"} | content)


RECIPES = {
    "task_arithmetic": recipe("task_arithmetic", REVERSE, SORT),
    "ties": recipe("ties", REVERSE, SORT),
    "linear": recipe("linear", BASE, REVERSE, SORT),
    "slerp": recipe("slerp", BASE, REVERSE, parameters={"t": 0.3}),
    "dare_ties": recipe("dare_ties", REVERSE, SORT, seed=5),
    "passthrough": recipe("passthrough", SORT, base=None),
    "other layers": Recipe.model_validate(
        {
            "merge_method": "passthrough",
            "slices": [
                {"sources": [{"model": SORT, "layer_range": [3, 6]}]},
                {"sources": [{"model": REVERSE, "layer_range": [3, 6]}]},
            ],
        }
    ),
}


def planned(made: Recipe) -> Plan:
    return plan(made, {name: open_checkpoint(name) for name in made.references})


def weights(module: torch.nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def loaded(made: Plan, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """What a user gets who writes the checkpoint and loads it."""
    write_checkpoint(made, folder)
    module: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return module


def equal(first: Weights, second: Weights) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def resident_of(base: str = BASE, dtype: torch.dtype = torch.float32) -> Resident:
    return Resident(open_checkpoint(base), dtype=dtype, device="cpu")


@pytest.fixture(scope="module")
def shared() -> Resident:
    """One module for all tests that merge into it: each must leave nothing behind."""
    return resident_of()


@pytest.mark.parametrize("name", RECIPES)
def test_the_module_equals_the_written_checkpoint(name: str, shared: Resident, tmp_path: Path) -> None:
    made = planned(RECIPES[name])
    module = shared.merged(made)
    assert module is shared.module
    assert equal(weights(module), weights(loaded(made, tmp_path / "out", torch.float32)))
    assert not module.training


def test_the_module_equals_the_written_checkpoint_in_bfloat16(tmp_path: Path) -> None:
    made = planned(RECIPES["ties"])
    module = resident_of(dtype=torch.bfloat16).merged(made)
    assert equal(weights(module), weights(loaded(made, tmp_path / "out", torch.bfloat16)))


@pytest.mark.parametrize("name", RECIPES)
def test_the_candidate_before_leaves_no_trace(name: str, shared: Resident) -> None:
    first = weights(shared.merged(planned(RECIPES[name])))
    between = weights(shared.merged(planned(recipe("task_arithmetic", REVERSE, parameters={"weight": 1.3}))))
    assert not equal(first, between)
    assert equal(first, weights(shared.merged(planned(RECIPES[name]))))


def test_a_dropped_module_is_built_again(shared: Resident) -> None:
    made = planned(RECIPES["ties"])
    first = weights(shared.merged(made))
    gone = weakref.ref(shared.module)  # type: ignore[arg-type]
    shared.drop()
    assert gone() is None
    assert equal(first, weights(shared.merged(made)))


def changed(folder: Path, tensors: Weights | None = None, **config: Any) -> str:
    """A copy of the model `reverse` with other tensors or settings."""
    shutil.copytree(REVERSE, folder)
    file = folder / "model.safetensors"
    save_file(load_file(file) | (tensors or {}), file, metadata={"format": "pt"})
    there = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(there | config))
    return str(folder)


def frankenmerge() -> Recipe:
    ranges = ((SORT, 0, 4), (REVERSE, 3, 6))
    slices = [{"sources": [{"model": model, "layer_range": [first, last]}]} for model, first, last in ranges]
    return Recipe.model_validate({"merge_method": "passthrough", "slices": slices})


def test_another_depth_goes_through_a_folder(shared: Resident, tmp_path: Path) -> None:
    made = planned(frankenmerge())
    module: Any = shared.merged(made)
    assert shared.module is None
    assert module.config.num_hidden_layers == 7
    assert equal(weights(module), weights(loaded(made, tmp_path / "out", torch.float32)))


def shortened(*layers: tuple[str, int, int]) -> Recipe:
    slices = [{"sources": [{"model": model, "layer_range": [first, last]}]} for model, first, last in layers]
    return Recipe.model_validate({"merge_method": "passthrough", "slices": slices})


def test_modules_of_other_depths_stay_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = Resident(open_checkpoint(BASE), dtype=torch.float32, device="cpu", room=10 * 2**20)
    own = roomy.module
    loads: list[Path] = []
    load = Resident.load_folder

    def counted(self: Resident, folder: Path) -> torch.nn.Module:
        loads.append(folder)
        return load(self, folder)

    monkeypatch.setattr(Resident, "load_folder", counted)
    deeper, shorter, other = frankenmerge(), shortened((SORT, 0, 3)), shortened((REVERSE, 1, 2), (SORT, 4, 6))
    modules = []
    for number, made in enumerate((deeper, shorter, RECIPES["task_arithmetic"], other, deeper, shorter)):
        assert roomy.bears(planned(made))
        modules.append(roomy.merged(planned(made)))
        assert roomy.holds(modules[-1])
        want = loaded(planned(made), tmp_path / str(number), torch.float32)
        assert equal(weights(modules[-1]), weights(want))
    assert modules[2] is roomy.module is own
    assert modules[4] is modules[0]
    assert modules[5] is modules[3] is modules[1]
    assert len(loads) == 2


def test_a_module_too_many_takes_the_place_of_all(tmp_path: Path) -> None:
    deeper, shorter = planned(frankenmerge()), planned(shortened((SORT, 0, 3)))
    tight = Resident(
        open_checkpoint(BASE), dtype=torch.float32, device="cpu", room=2 * deeper.write_bytes + shorter.write_bytes
    )
    first = tight.merged(deeper)
    assert tight.holds(first)
    assert not tight.bears(shorter)
    second = tight.merged(shorter)
    assert tight.module is None
    assert not tight.holds(first)
    assert equal(weights(second), weights(loaded(shorter, tmp_path / "out", torch.float32)))
    assert tight.merged(planned(RECIPES["task_arithmetic"])) is tight.module


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_another_end_of_text_goes_through_a_folder(shared: Resident, tmp_path: Path, file: str) -> None:
    source = changed(tmp_path / "source")
    settings = json.loads(Path(source, file).read_text()) | {"eos_token_id": 5}
    Path(source, file).write_text(json.dumps(settings))
    made = planned(recipe("linear", source, SORT, base=None))
    module: Any = shared.merged(made)
    want: Any = loaded(made, tmp_path / "out", torch.float32)
    assert shared.module is None
    assert equal(weights(module), weights(want))
    assert module.generation_config.eos_token_id == want.generation_config.eos_token_id
    assert (file == "config.json") == (module.config.eos_token_id == 5)


def test_settings_without_effect_do_not_need_a_folder(shared: Resident, tmp_path: Path) -> None:
    source = changed(tmp_path / "source", use_cache=False, transformers_version="4.0.0")
    assert shared.merged(planned(recipe("linear", source, SORT, base=None))) is shared.module


def test_nonfinite_weights_are_noticed_and_gone_with_the_next(shared: Resident, tmp_path: Path) -> None:
    first = weights(shared.merged(planned(RECIPES["linear"])))
    norm = load_file(Path(REVERSE, "model.safetensors"))["model.norm.weight"]
    source = changed(tmp_path / "source", {"model.norm.weight": torch.full_like(norm, float("nan"))})
    with pytest.raises(NonFiniteError, match=r"model\.norm\.weight"):
        shared.merged(planned(recipe("linear", BASE, source)))
    assert equal(first, weights(shared.merged(planned(RECIPES["linear"]))))


def test_derived_buffers_do_not_hinder(tmp_path: Path) -> None:
    derived = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    made = resident_of(changed(tmp_path / "base", derived))
    assert made.module is not None
    assert made.merged(planned(recipe("task_arithmetic", SORT, base=str(tmp_path / "base")))) is made.module


def test_what_transformers_does_not_load_goes_through_a_folder(tmp_path: Path) -> None:
    base = changed(tmp_path / "base", {"model.unknown.weight": torch.ones(3)})
    source = changed(tmp_path / "source", {"model.unknown.weight": torch.ones(3)})
    with_unknown = resident_of(base)
    made = planned(recipe("task_arithmetic", source, base=base))
    assert with_unknown.module is None
    module = with_unknown.merged(made)
    assert equal(weights(module), weights(loaded(made, tmp_path / "out", torch.float32)))


@pytest.mark.parametrize(("free", "fails"), [(2**40, False), (2**40, True), (0, False)])
def test_shared_memory_is_used_where_there_is_room(
    shared: Resident, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fails: bool
) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    used: list[bool] = []

    def write(made: Plan, folder: Path, **keywords: Any) -> None:
        used.append(memory in folder.parents)
        if fails and used[-1]:
            raise OutputError("full")
        write_checkpoint(made, folder, **keywords)

    usage = shutil.disk_usage
    space = {memory: SimpleNamespace(free=free)}
    monkeypatch.setattr(resident, "SHARED_MEMORY", memory)
    monkeypatch.setattr(resident, "write_checkpoint", write)
    monkeypatch.setattr(resident.shutil, "disk_usage", lambda path: space.get(path) or usage(path))
    shared.merged(planned(frankenmerge()))
    assert used == ([True, False] if fails else [bool(free)])
    assert list(memory.iterdir()) == []


def test_an_evaluator_holds_one_module_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchConfig.model_validate(
        {
            "name": "small",
            "models": {"base": BASE, "sources": [REVERSE, SORT]},
            "score": {
                "tasks": [{"task": "demo_reverse", "metric": "exact_match"}, {"task": "demo_pick", "metric": "acc"}],
                "include": [str(DEMO)],
                "documents": {"search": 8, "selection": 8, "report": 8},
                "dtype": "float32",
            },
        }
    )
    monkeypatch.setattr(evaluator_module, "_room", lambda threads: 0)
    evaluator = Evaluator(config)
    alive: list[weakref.ref[torch.nn.Module]] = []
    load = Resident.load_folder

    def watched(self: Resident, folder: Path) -> torch.nn.Module:
        assert not [each for each in alive if each() is not None], "two modules in memory"
        module = load(self, folder)
        alive.append(weakref.ref(module))
        return module

    alive.append(weakref.ref(evaluator._resident.module))  # type: ignore[arg-type]
    monkeypatch.setattr(Resident, "load_folder", watched)
    made = RECIPES["task_arithmetic"]
    write_checkpoint(planned(made), tmp_path / "out")
    job = Job("a", "search", recipe=made)
    jobs = [job, Job("b", "search", folder=str(tmp_path / "out")), Job("c", "search", recipe=frankenmerge()), job, job]
    outcomes = [evaluator.evaluate(each).outcome for each in jobs]
    assert not [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    scores = [outcome.measures for outcome in outcomes if isinstance(outcome, Score)]
    assert scores[0] == scores[1] == scores[3] == scores[4]
    assert len(alive) == 4  # the base, the folder, the deeper one, the base again
