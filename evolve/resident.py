"""The model that is scored: built once, its weights overwritten by every candidate.

The module is loaded from the base with transformers and its parameters are compared once with the base's
checkpoint, tensor by tensor. Where the names do not map one to one (transformers may fuse experts or rename),
and for recipes with another architecture than the base's (more layers, another vocabulary), the candidate is
written to shared memory and loaded from there: slower, always right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.checkpoint import Checkpoint
from engine.merge import merge
from engine.plan import Plan
from engine.write import write_checkpoint
from evolve.errors import ModelError
from evolve.scratch import scratch

SHARED_MEMORY = Path("/dev/shm")
SHAPELESS = (
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
)  # config keys no weight depends on


class NonFiniteWeights(ValueError):
    """The merge produced NaN or infinite weights."""


class Resident:
    """One module and its tokenizer on one device."""

    def __init__(self, base: Checkpoint, *, dtype: torch.dtype, device: str, trust_remote_code: bool = False) -> None:
        self._base = base
        self._dtype, self._device, self._trust = dtype, device, trust_remote_code
        self.tokenizer = load_tokenizer(base.folder, trust_remote_code)
        self.module = self.load_folder(base.folder)
        # None where the names do not map: then every candidate goes through a folder.
        self._parameters = self._map() if "+" not in base.reference else self._map(compare=False)

    def merged(self, plan: Plan) -> torch.nn.Module:
        """The module with the weights that `plan` makes. Raises NonFiniteWeights."""
        if self._parameters is None or not self._fits(plan):
            with scratch(SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
                write_checkpoint(plan, folder / "candidate", device=self._device)
                return self.load_folder(folder / "candidate")
        with torch.no_grad():
            for name, tensor in merge(plan, device=self._device):
                # A sum is finite only if every term is, and costs one pass.
                if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32)):
                    raise NonFiniteWeights(f"{name} has NaN or infinite weights after the merge")
                self._parameters[name].copy_(tensor)
        return self.module

    def load_folder(self, folder: Path) -> torch.nn.Module:
        """A module loaded afresh from a checkpoint folder."""
        from transformers import AutoModelForCausalLM

        try:
            module: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=self._dtype, local_files_only=True, trust_remote_code=self._trust
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise ModelError(
                f"{folder}: transformers cannot load it as a causal language model "
                f"({' '.join(str(error).split())[:300]}); give a model that AutoModelForCausalLM loads"
            ) from error
        loaded: torch.nn.Module = module.to(self._device).eval().requires_grad_(False)
        return loaded

    def _map(self, compare: bool = True) -> dict[str, torch.Tensor] | None:
        """Checkpoint name -> parameter, if every tensor of the checkpoint is one of the module's."""
        state = self.module.state_dict(keep_vars=True)
        parameters = {}
        for name in self._base.tensors:
            if name not in state or tuple(state[name].shape) != tuple(self._base.tensors[name].shape):
                return None
            if compare and not torch.equal(state[name].detach().cpu(), self._base.read(name).to(state[name].dtype)):
                return None
            parameters[name] = state[name]
        covered = {parameter.data_ptr() for parameter in parameters.values()}
        whole = all(parameter.data_ptr() in covered for parameter in self.module.parameters())
        return parameters if whole else None

    def _fits(self, plan: Plan) -> bool:
        """Whether the plan's output has exactly the module's tensors and shape."""
        same = {key: value for key, value in plan.config.items() if key not in SHAPELESS}
        base = {key: value for key, value in self._base.config.items() if key not in SHAPELESS}
        names = {job.name for job in plan.jobs}
        return same == base and names == set(self._parameters or ())


def check_base(base: Checkpoint, trust_remote_code: bool = False) -> None:
    """Whether transformers knows the base's architecture and would give its tensors the shapes that they have.

    Nothing is loaded: the module stands on the meta device. Raises ModelError.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    where = f"models.base ({base.reference})"
    try:
        config = AutoConfig.from_pretrained(base.folder, local_files_only=True, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            module: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a configuration's own checks and a model's own code: anything can come out
        raise ModelError(
            f"{where}: transformers cannot build it from its config.json ({' '.join(str(error).split())[:300]}); "
            "give a model that AutoModelForCausalLM loads, or a newer transformers"
        ) from error
    for name, tensor in module.state_dict().items():
        stored = base.tensors.get(name)
        if stored is not None and tuple(stored.shape) != tuple(tensor.shape):
            raise ModelError(
                f"{where}: {name} has shape {tuple(stored.shape)}, by its config.json it has {tuple(tensor.shape)}; "
                "put back the config.json that belongs to these weights"
            )


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer beside a checkpoint. Raises ModelError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise ModelError(
            f"{folder}: has no tokenizer that transformers can load ({' '.join(str(error).split())[:300]}); "
            "put the tokenizer's files beside the model"
        ) from error
