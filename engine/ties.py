"""Heads that share the embedding's weights: told once, and parted where an adapter changes only one of the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.architecture import embedding_name, head_name, split_layer
from engine.pickled import PickledShard
from engine.shard import TensorInfo
from engine.weights import AnyShard

_PARTABLE = ("ForCausalLM", "LMHeadModel")
"""Architectures whose head may have weights of its own without any other change (T5 scales a tied head's input)."""


def without_twins(config: Mapping[str, Any], shards: dict[str, AnyShard]) -> dict[str, AnyShard]:
    """Leave away what is tied to an embedding: .bin files list it twice, safetensors files once."""
    if config.get("tie_word_embeddings") is False:
        return shards
    pickled = {id(shard): shard for shard in shards.values() if isinstance(shard, PickledShard)}
    tied = {
        name
        for shard in pickled.values()
        for name, first in shard.aliases().items()
        if split_layer(name) is None and split_layer(first) is None
    }
    return {name: shard for name, shard in shards.items() if name not in tied}


def untied_head(
    config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], changed: Sequence[str], keeps_ties: bool
) -> dict[str, str]:
    """Return {head: embedding} where an adapter on a tied model trained one of them and left the other as it was.

    That is what such an adapter computes before it is merged: the two modules share the base's weights, but not the
    delta. The merged model then has a head of its own. Empty where there is nothing to part.
    """
    embedding, head = embedding_name(tensors), head_name(tensors)
    flags = [part.get("tie_word_embeddings") for part in (config, config.get("text_config")) if isinstance(part, dict)]
    tied = embedding is not None and (head is None or any(flags))
    architectures = config.get("architectures") or []
    if keeps_ties or not tied or embedding is None or not all(str(a).endswith(_PARTABLE) for a in architectures):
        return {}
    trained_head = head_name(changed)
    trained_embedding = any(f".{name}".endswith(f".{embedding}") for name in changed)
    if trained_head is None and not trained_embedding:
        return {}
    return {head or trained_head or "lm_head.weight": embedding}


def without_tie(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model whose head has weights of its own."""
    own = {**config, "tie_word_embeddings": False}
    text = config.get("text_config")
    return own if not isinstance(text, dict) else {**own, "text_config": {**text, "tie_word_embeddings": False}}
