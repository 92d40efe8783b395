"""Planning: from a recipe and open checkpoints to a flat tuple of jobs. Reads headers only, merges nothing.

Every method needs just the same-named tensors of each model, so a job per output tensor is all there is; jobs are
independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from engine.blocks import Block, Source, resolve_parts
from engine.chat_template import choose_template, template_files
from engine.checkpoint import Checkpoint
from engine.compatibility import check_architectures, check_names, check_parameter_names, check_quantised
from engine.errors import CheckpointError, RecipeError
from engine.job import Input, Job
from engine.lookup import lookup
from engine.methods import METHODS
from engine.methods.method import Parameter
from engine.output_config import output_config
from engine.parameters import Scalar, first_value
from engine.recipe import Recipe
from engine.slots import Slot, output_head, slots, stored_name
from engine.vocabulary import Vocabulary, plan_vocabulary, tokenizer_donor

SMALL = 1 << 18
"""Elements up to which loading (or, the first time, compiling) kernels takes longer than they save."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is known before a byte of weights is read.

    `config` is the output's config.json, made from that of `owner`, whose code (if it has any) is copied too. `donor`
    is the model whose tokenizer and generation settings are copied;
    `files` replaces some of them (None: leave it away). `earlier` are the recipes of models that were merged for this.
    Sizes are in bytes.
    """

    recipe: Recipe
    jobs: tuple[Job, ...]
    config: dict[str, Any]
    owner: Checkpoint
    donor: Checkpoint
    files: Mapping[str, bytes | None]
    read_bytes: int
    write_bytes: int
    earlier: tuple[Recipe, ...] = ()

    @property
    def recipe_text(self) -> str:
        """All recipes that made this, as YAML: a document each, the last one's result being the output."""
        return "---\n".join(recipe.to_yaml() for recipe in (*self.earlier, self.recipe))

    @property
    def kernels(self) -> bool:
        """Whether the result is large enough for loading the kernels to pay; both ways give the same bits."""
        return sum(math.prod(job.shape) for job in self.jobs) > SMALL


def plan(recipe: Recipe, checkpoints: Mapping[str, Checkpoint], *, any_architecture: bool = False) -> Plan:
    """Return the jobs of a recipe; `checkpoints` holds an open one for each of `recipe.references`.

    With `any_architecture` the configs may name different ones; the tensors must fit together all the same.

    Raises RecipeError for parameters and layers, CheckpointError for models that do not fit together.
    """
    method = lookup(METHODS, recipe.merge_method, "merge method")
    if absent := [name for name in recipe.references if name not in checkpoints]:
        raise RecipeError(f"recipe: {absent[0]} is named but was not opened")
    check_parameter_names(recipe, method)
    parts = resolve_parts(recipe, method, checkpoints)
    blocks = [block for part in parts for block in part.blocks]
    head = output_head(parts)
    for part in parts:
        for block in part.blocks:
            if not any_architecture:
                check_architectures(block)
        check_names(part, head)
    vocabulary = plan_vocabulary(recipe, blocks, checkpoints)
    jobs = tuple(_job(recipe, slot, head, vocabulary) for slot in slots(parts, head))
    owner = _owner(recipe, blocks, checkpoints)
    donor = tokenizer_donor(recipe, blocks, checkpoints) or owner
    return Plan(
        recipe=recipe,
        jobs=jobs,
        config=output_config(owner, donor, parts, jobs, tied=head is None, vocabulary=vocabulary),
        owner=owner,
        donor=donor,
        files=_files(recipe, donor, vocabulary, checkpoints),
        read_bytes=sum(_read_bytes(job) for job in jobs),
        write_bytes=sum(math.prod(job.shape) * job.dtype.itemsize for job in jobs),
    )


def _owner(recipe: Recipe, blocks: Sequence[Block], checkpoints: Mapping[str, Checkpoint]) -> Checkpoint:
    """Return the model whose config the output takes: the base if it is merged at all, else the first."""
    merged = [member.checkpoint for block in blocks for member in block.members]
    base = checkpoints[recipe.base_model] if recipe.base_model else None
    return base if base is not None and base in merged else blocks[0].lead.checkpoint


def _files(
    recipe: Recipe, donor: Checkpoint, vocabulary: Vocabulary | None, checkpoints: Mapping[str, Checkpoint]
) -> Mapping[str, bytes | None]:
    files = vocabulary.files if vocabulary else {}
    if recipe.chat_template is None:
        return files
    folders = [checkpoints[reference].folder for reference in recipe.references]
    template = choose_template(recipe.chat_template, folders)
    return files if template is None else template_files(template, donor.folder, files)


def _read_bytes(job: Job) -> int:
    return sum(m.checkpoint.tensors[m.name].nbytes for m in job.members)


def _job(recipe: Recipe, slot: Slot, head: str | None, vocabulary: Vocabulary | None) -> Job:
    lead = _input(slot, slot.block.lead, head, None, vocabulary)
    inputs = tuple(_input(slot, source, head, lead, vocabulary) for source in slot.block.sources)
    base = _input(slot, slot.block.base, head, lead, vocabulary) if slot.block.base else None
    stored = [m.checkpoint.tensors[m.name].dtype for m in ([base] if base else []) + list(inputs)]
    numbers = all(dtype.is_floating_point for dtype in stored)
    promoted = _promoted(stored)
    out = _dtype(recipe.out_dtype) or _dtype(recipe.dtype) or promoted
    wide = torch.float64 in (promoted, _dtype(recipe.dtype), _dtype(recipe.out_dtype))
    return Job(
        name=slot.name,
        method=slot.block.method if numbers else None,
        inputs=inputs,
        base=base,
        parameters={p.name: _value(slot, p) for p in slot.block.method.parameters},
        shape=lead.shape,
        dtype=out if numbers else stored[0],
        work_dtype=(torch.float64 if wide else torch.float32) if numbers else stored[0],
        seed=recipe.seed,
    )


def _promoted(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The dtype that holds all of them; float8, which torch promotes with nothing, counts as bfloat16."""
    promoted, *others = [torch.bfloat16 if is_float8(dtype) else dtype for dtype in dtypes]
    for dtype in others:
        promoted = torch.promote_types(promoted, dtype)
    return promoted


def is_float8(dtype: torch.dtype) -> bool:
    """Whether numbers of one byte are stored."""
    return dtype.is_floating_point and dtype.itemsize == 1


def _dtype(name: str | None) -> torch.dtype | None:
    return None if name is None else cast(torch.dtype, getattr(torch, name))


def _input(slot: Slot, source: Source, head: str | None, lead: Input | None, vocabulary: Vocabulary | None) -> Input:
    """Return a source's tensor for a slot. Raises CheckpointError if it is missing or of another shape."""
    role = slot.name_in(source)
    name = stored_name(source.checkpoint, role, head)
    info = source.checkpoint.tensors.get(name)
    if info is None:
        raise CheckpointError(
            f"{source.where}: has no tensor {name}; only fine-tunes of one architecture can be merged"
        )
    if is_float8(info.dtype):
        check_quantised(source.checkpoint, name, source.where)
    shape = info.shape
    rows = None
    if vocabulary is not None and (rows := vocabulary.rows(source.checkpoint, role, head)) is not None:
        shape = (vocabulary.size, *shape[1:])
    if lead is not None and shape != lead.shape:
        first = slot.block.lead
        hint = "only fine-tunes of one architecture can be merged"
        if slot.offset is None and len(shape) == 2 and shape[1:] == lead.shape[1:]:
            hint = "for models with different vocabularies set tokenizer_source: union or base"
        base = "base" if slot.block.base else first.where
        raise CheckpointError(f"{source.where}: {name} has shape {shape}, {base} has {lead.shape}; {hint}")
    filled = vocabulary.filled if vocabulary is not None and vocabulary.filled < vocabulary.size else None
    return Input(source.checkpoint, name, shape, rows, filled if rows is not None else None)


def _value(slot: Slot, parameter: Parameter) -> Any:
    """Return a parameter's value for one tensor, or a tuple with one for each source."""
    outer = slot.block.levels
    if parameter.scope == "shared":
        return _typed(first_value(outer, parameter.name, slot.name, slot.position), slot, parameter, None)
    return tuple(
        _typed(
            first_value((source.parameters, *outer), parameter.name, slot.name_in(source), slot.position),
            slot, parameter, source,
        )
        for source in slot.block.sources
    )  # fmt: skip


def _typed(value: Scalar | None, slot: Slot, parameter: Parameter, source: Source | None) -> Scalar | None:
    where = source.where if source else slot.block.where
    if value is None:
        if parameter.required:
            raise RecipeError(
                f"{where}: no {parameter.name} for {slot.name}; {slot.block.method.name} needs one; add it under"
                " parameters"
            )
        return parameter.default
    try:
        return parameter.typed(value)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
