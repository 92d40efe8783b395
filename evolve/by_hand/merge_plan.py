"""What `evolve merge --dry-run` and `--verbose` print: all that is known before the first byte is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine import unfinished
from engine.checkpoint import Checkpoint
from engine.companions import code, companions
from engine.plan import Plan
from engine.room import check_disk, check_memory, free_disk, in_units, peak_memory
from engine.shard_layout import layout
from engine.target import RECIPE_FILE

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def describe(
    plan: Plan, opened: Mapping[str, Checkpoint], out: Path, shard_bytes: float, device: str, memory: int
) -> Iterator[str]:
    """Yield lines. Raises OutputError, after the last of them, where the disk or the memory is too small."""
    shards = layout(plan.jobs, shard_bytes)
    partial = unfinished.partial_folder(Path(os.path.realpath(out)))
    kept = unfinished.finished(partial, unfinished.identity(plan, shards, device), shards)
    needed = sum(shard.size for shard in shards if shard.file not in kept)
    yield f"method    {plan.recipe.merge_method}"
    for reference, checkpoint in opened.items():
        yield f"model     {reference}{' (base)' * (reference == plan.recipe.base_model)}: {contents(checkpoint)}"
    yield f"output    {out}: {architecture(plan.config)}, {len(plan.jobs)} tensors"
    yield f"dtypes    {counted(job.dtype for job in plan.jobs)}; computed in {counted(j.work_dtype for j in plan.jobs)}"
    yield f"read      {in_units(plan.read_bytes)}"
    yield (
        f"write     {in_units(plan.write_bytes)} in {len(shards)} file{'s'[: len(shards) != 1]}; "
        f"{in_units(free_disk(out))} are free"
    )
    if kept:
        yield f"kept      {len(kept)} files of an interrupted start; {in_units(needed)} are still to be written"
    peak = peak_memory(plan, device)
    yield f"memory    {in_units(peak)} at most at once; {in_units(memory)} are free ({device})"
    yield from (f"warning: {each}" for each in warnings(plan, opened, out))
    check_memory(peak, memory, device)
    check_disk(out, needed)


def contents(checkpoint: Checkpoint) -> str:
    total = sum(info.nbytes for info in checkpoint.tensors.values())
    stored = counted(info.dtype for info in checkpoint.tensors.values())
    return f"{architecture(checkpoint.config)}, {len(checkpoint.tensors)} tensors, {in_units(total)}, {stored}"


def architecture(config: Mapping[str, Any]) -> str:
    """What a config tells of the model, as far as it does."""
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    layers = next((text[key] for key in LAYERS if key in text), None)
    facts = [str(config.get("model_type", "model"))]
    facts += [] if layers is None else [f"{layers} layers"]
    facts += [f"vocabulary {text['vocab_size']}"] if "vocab_size" in text else []
    return ", ".join(facts)


def counted(dtypes: Iterator[Any]) -> str:
    counts = Counter(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return ", ".join(name if len(counts) == 1 else f"{name} ({count} tensors)" for name, count in counts.most_common())


def warnings(plan: Plan, opened: Mapping[str, Checkpoint], out: Path) -> Iterator[str]:
    if (out / RECIPE_FILE).is_file():
        yield f"{out} holds an earlier merge, which is replaced"
    if not any(path.name.startswith(("tokenizer", "vocab")) for path in companions(plan.donor.folder)):
        yield f"{plan.donor.reference} has no tokenizer beside it, so the merge has none"
    if code(plan.owner.folder):
        yield f"{plan.owner.reference} has code of its own, which is copied and not run"
    if len({str(checkpoint.config.get("model_type")) for checkpoint in opened.values()}) > 1:
        yield "the models are of different architectures"
