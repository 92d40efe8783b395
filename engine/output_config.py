"""config.json of the merged model: its owner's, with what the merge has changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from engine.blocks import Part
from engine.checkpoint import Checkpoint
from engine.job import Job
from engine.layer_config import set_layers, text_section
from engine.slots import is_tied
from engine.vocabulary import Vocabulary

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def output_config(
    owner: Checkpoint,
    donor: Checkpoint,
    parts: Sequence[Part],
    jobs: Sequence[Job],
    *,
    tied: bool,
    vocabulary: Vocabulary | None,
) -> dict[str, Any]:
    """Return the output's configuration.

    Layer counts and lists with an entry per layer (such as layer_types) follow the slices, the dtype follows the
    jobs, `tie_word_embeddings` follows whether a head is written. Raises RecipeError for layers that no key counts.
    """
    config = copy.deepcopy(owner.config)
    text = text_section(config)
    for part in parts:
        if part.blocks[0].layers is not None:
            set_layers(config, owner, part)
    if not tied:
        for section in (config, text):
            if section.get("tie_word_embeddings") or is_tied(owner):  # tied by default: what is not said must be
                section["tie_word_embeddings"] = False
    dtype = str(max(jobs, key=lambda job: math.prod(job.shape)).dtype).removeprefix("torch.")
    config["torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"] = dtype
    if vocabulary is not None:
        text["vocab_size"] = vocabulary.size
    for key in _TOKEN_IDS:
        if key in donor.config:
            config[key] = donor.config[key]
    return config
