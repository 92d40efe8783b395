"""The model that is scored: built once, its weights overwritten by every candidate.

The module is loaded from the base with transformers and its parameters are compared once with the base's
checkpoint, tensor by tensor. Where the names do not map one to one (transformers may fuse experts or rename),
and for recipes with another architecture than the base's (more layers, another vocabulary), the candidate is
written to a temporary folder and loaded from there: slower, always right. A module that was loaded so is kept for
the next candidate of that architecture where there is room for it.
"""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.architecture import is_derived
from engine.checkpoint import Checkpoint, open_checkpoint
from engine.errors import OutputError
from engine.kept import Kept
from engine.merge import merge_into
from engine.plan import Plan
from engine.write import write_checkpoint
from evolve.errors import ModelError
from evolve.scratch import scratch
from evolve.workers.remote_code import refuse_code
from evolve.workers.tokenizer import load_tokenizer

SHARED_MEMORY = Path("/dev/shm")
SPARE = 2 * 64 * 2**20  # what writing keeps free beside the weights, and as much again for the other workers
SHAPELESS = (
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "_name_or_path",
)  # config keys that change no score


@dataclass(frozen=True, eq=False)
class Other:
    """A module of another architecture than the base's, kept: what fits it, its own tensors by name, and its bytes."""

    module: torch.nn.Module
    parameters: Mapping[str, torch.Tensor]
    form: Form
    bytes: int


class Resident:
    """One module and its tokenizer on one device. The module can be dropped; it is built again when it is needed."""

    def __init__(
        self,
        base: Checkpoint,
        *,
        dtype: torch.dtype,
        device: str,
        trust_remote_code: bool = False,
        room: int = 0,
    ) -> None:
        """`room`: bytes that may be spent on holding adapted weights, which are read again and again otherwise, and as
        many on modules of other architectures; none of those on a device of its own memory."""
        self._base = base
        self._kept = Kept(room)
        self._room = room if device == "cpu" else 0
        self._others: list[Other] = []
        self._dtype, self._device, self._trust = dtype, device, trust_remote_code
        names = frozenset(name for name in base.tensors if not is_derived(name))
        self._form = Form(shaping(base.config), names, generation(base))
        self._compared = base.adapter is not None  # then the module starts with other weights than the base's
        self._maps = True
        self.tokenizer = load_tokenizer(base.folder, trust_remote_code)
        self.module: torch.nn.Module | None = None
        self._parameters: dict[str, torch.Tensor] = {}
        self._build()

    def ready(self, plan: Plan) -> torch.nn.Module | None:
        """The module, built if need be, where the plan's weights can overwrite its own; else None."""
        if not self._maps or not self._fits(plan):
            return None
        if self.module is None:
            self._build()
        return self.module

    def merged(self, plan: Plan) -> torch.nn.Module:
        """The module with the weights that `plan` makes. Raises what merging raises.

        Where the module does not take them it is another one, for which it is dropped if there is no room for both.
        """
        module, parameters = self.ready(plan), self._parameters
        if module is None:
            other = self._other(plan)
            if other is None:
                if not self._has_room(plan) and (self.module is not None or self._others):
                    self.drop()
                return self._through_folder(plan)
            module, parameters = other.module, dict(other.parameters)
        with torch.no_grad():
            merge_into(plan, parameters, device=self._device, kept=self._kept)
        return module

    def holds(self, module: torch.nn.Module) -> bool:
        """Whether the module stays, for other candidates."""
        return module is self.module or any(module is other.module for other in self._others)

    def bears(self, plan: Plan) -> bool:
        """Whether there is a module for the plan's weights, or room for one more."""
        return self.ready(plan) is not None or self._other(plan) is not None or self._has_room(plan)

    @property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """Checkpoint name -> the module's own tensor, as long as the module is there; tied names share one."""
        return self._parameters

    @property
    def kept(self) -> Kept:
        """What merging keeps for the next candidate."""
        return self._kept

    def drop(self) -> None:
        """Free all modules, so that another one has room."""
        self.module, self._parameters, self._others = None, {}, []
        gc.collect()  # models and lm-eval hold each other in cycles

    def _build(self) -> None:
        self.module = self.load_folder(self._base.folder)
        parameters = self._map(self.module)
        if parameters is None:  # every candidate goes through a folder
            self._maps, self._room = False, 0
            self.drop()
        else:
            self._parameters = parameters

    def _through_folder(self, plan: Plan) -> torch.nn.Module:
        if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free >= plan.write_bytes + SPARE:
            with suppress(OutputError):  # filled by somebody else in the meantime
                return self._written(plan, SHARED_MEMORY)
        return self._written(plan, None)

    def _written(self, plan: Plan, parent: Path | None) -> torch.nn.Module:
        with scratch(parent) as folder:
            write_checkpoint(plan, folder / "candidate", device=self._device, shared=self._kept)
            module = self.load_folder(folder / "candidate")
            if self._has_room(plan):
                self._keep(module, plan, open_checkpoint(str(folder / "candidate")))
            return module

    def _keep(self, module: torch.nn.Module, plan: Plan, written: Checkpoint) -> None:
        """Keep a module that was loaded through a folder, if its tensors are those that were written."""
        form = form_of(plan)
        parameters = mapped(module, written, form.names)
        if parameters is None:
            self._room = 0  # nor will those of others be
        else:
            self._others.append(Other(module, parameters, form, self._bytes(plan)))

    def _other(self, plan: Plan) -> Other | None:
        form = form_of(plan)
        return next((other for other in self._others if other.form == form), None)

    def _has_room(self, plan: Plan) -> bool:
        return sum(other.bytes for other in self._others) + self._bytes(plan) <= self._room

    def _bytes(self, plan: Plan) -> int:
        """Of the module with the plan's weights."""
        return sum(math.prod(job.shape) for job in plan.jobs) * self._dtype.itemsize

    def load_folder(self, folder: Path) -> torch.nn.Module:
        """A module loaded afresh from a checkpoint folder."""
        return load_module(folder, dtype=self._dtype, device=self._device, trust_remote_code=self._trust)

    def _map(self, module: torch.nn.Module) -> dict[str, torch.Tensor] | None:
        """Checkpoint name -> parameter of the base's module, compared with the base when it is first built."""
        parameters = mapped(module, self._base, self._form.names, compare=not self._compared)
        self._compared = True
        return parameters

    def _fits(self, plan: Plan) -> bool:
        """Whether the plan's output has exactly the module's tensors, shape and way to generate."""
        return form_of(plan) == self._form


def mapped(
    module: torch.nn.Module, checkpoint: Checkpoint, names: frozenset[str], *, compare: bool = True
) -> dict[str, torch.Tensor] | None:
    """Checkpoint name -> parameter, if every tensor of the checkpoint is one of the module's and they are all.

    Buffers that follow from the config are left out of `names`: no merge writes them.
    """
    state = module.state_dict(keep_vars=True)
    for name in sorted(names):
        if name not in state or tuple(state[name].shape) != tuple(checkpoint.tensors[name].shape):
            return None
        stored = state[name].detach()
        if compare and not torch.equal(stored.cpu(), checkpoint.read(name).to(stored.dtype)):
            return None
    parameters = {name: state[name] for name in names}
    covered = {parameter.data_ptr() for parameter in parameters.values()}
    whole = all(parameter.data_ptr() in covered for parameter in module.parameters())
    return parameters if whole else None


@dataclass(frozen=True)
class Form:
    """What a module is made by: its configuration, its tensors' names and how it generates."""

    config: Mapping[str, Any]
    names: frozenset[str]
    generation: bytes | None


def form_of(plan: Plan) -> Form:
    return Form(shaping(plan.config), frozenset(job.name for job in plan.jobs), generation(plan.donor))


def shaping(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in SHAPELESS}


def generation(checkpoint: Checkpoint) -> bytes | None:
    """The settings with which transformers generates, such as the tokens that end an answer."""
    path = checkpoint.folder / "generation_config.json"
    return path.read_bytes() if path.is_file() else None


def check_base(base: Checkpoint, trust_remote_code: bool = False) -> None:
    """Whether transformers knows the base's architecture and would give its tensors the shapes that they have.

    Nothing is loaded: the module stands on the meta device. Raises ModelError.
    """
    from transformers import AutoConfig

    where = f"models.base ({base.reference})"
    try:
        config = AutoConfig.from_pretrained(base.folder, local_files_only=True, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            module: Any = auto_class(config).from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a configuration's own checks and a model's own code: anything can come out
        refuse_code(error, where, base.folder)
        raise ModelError(
            f"{where}: transformers cannot build it from its config.json ({' '.join(str(error).split())[:300]}); "
            "give a model that AutoModelForCausalLM or AutoModelForSeq2SeqLM loads, or a newer transformers"
        ) from error
    for name, tensor in module.state_dict().items():
        stored = base.tensors.get(name)
        if stored is not None and tuple(stored.shape) != tuple(tensor.shape):
            raise ModelError(
                f"{where}: {name} has shape {tuple(stored.shape)}, by its config.json it has {tuple(tensor.shape)}; "
                "put back the config.json that belongs to these weights"
            )


def load_module(folder: Path, *, dtype: torch.dtype, device: str, trust_remote_code: bool = False) -> torch.nn.Module:
    """The model in a checkpoint folder, ready to be asked: a decoder, or an encoder with one. Raises ModelError."""
    from transformers import AutoConfig

    where: Any = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **where)
        module = auto_class(config).from_pretrained(folder, dtype=dtype, **where)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        refuse_code(error, str(folder), folder)
        raise ModelError(
            f"{folder}: transformers cannot load it as a language model ({' '.join(str(error).split())[:300]}); "
            "give a model that AutoModelForCausalLM or AutoModelForSeq2SeqLM loads"
        ) from error
    loaded: torch.nn.Module = module.to(device).eval().requires_grad_(False)
    return loaded


def auto_class(config: Any) -> Any:
    """The class of transformers that loads models with this configuration: decoders, or encoders with one."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
