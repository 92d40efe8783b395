"""config.json of the merged model: its owner's, with what the merge has changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from engine.architecture import layer_count
from engine.blocks import Block
from engine.checkpoint import Checkpoint
from engine.job import Job
from engine.vocabulary import Vocabulary

_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def output_config(
    owner: Checkpoint,
    donor: Checkpoint,
    blocks: Sequence[Block],
    jobs: Sequence[Job],
    *,
    tied: bool,
    vocabulary: Vocabulary | None,
) -> dict[str, Any]:
    """Return the output's configuration.

    Layer counts and lists with an entry per layer (such as layer_types) follow the slices, the dtype follows the
    jobs, `tie_word_embeddings` follows whether a head is written.
    """
    config = copy.deepcopy(owner.config)
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    if blocks[0].layers is not None:
        _set_layers(text, owner, blocks)
    if not tied:
        for part in (config, text):
            if part.get("tie_word_embeddings"):
                part["tie_word_embeddings"] = False
    dtype = str(max(jobs, key=lambda job: math.prod(job.shape)).dtype).removeprefix("torch.")
    config["torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"] = dtype
    if vocabulary is not None:
        text["vocab_size"] = vocabulary.size
    for key in _TOKEN_IDS:
        if key in donor.config:
            config[key] = donor.config[key]
    return config


def _set_layers(text: dict[str, Any], owner: Checkpoint, blocks: Sequence[Block]) -> None:
    before = layer_count(owner.tensors)
    origins = [
        (block.lead.checkpoint, (block.lead.first or 0) + offset)
        for block in blocks
        for offset in range(block.layers or 0)
    ]
    for key in [key for key, value in text.items() if _is_per_layer(key, value, before)]:
        text[key] = [_entry(checkpoint, key, layer, text[key]) for checkpoint, layer in origins]
    for key in _LAYER_COUNTS:
        if isinstance(text.get(key), int):
            text[key] = len(origins)


def _is_per_layer(key: str, value: Any, layers: int) -> bool:
    """A list as long as there are layers, under a name that speaks of layers: `layer_types`, `no_rope_layers`."""
    return isinstance(value, list) and len(value) == layers and "layer" in key


def _entry(checkpoint: Checkpoint, key: str, layer: int, fallback: list[Any]) -> Any:
    config = checkpoint.config
    there = (config["text_config"] if isinstance(config.get("text_config"), dict) else config).get(key, fallback)
    return there[layer] if layer < len(there) else fallback[layer % len(fallback)]
