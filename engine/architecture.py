"""What tensor names say about a model: layers, module groups, embeddings and head.

No architecture is written down: a layer's index is the first `.N.` in a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_LAYER = re.compile(r"^((?:.*?\.)?)(\d{1,5})(\..+)$")
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "tokens_embed.weight",
    "embeddings.weight",
    "shared.weight",
)
_HEADS = (
    "lm_head.weight",
    "embed_out.weight",
    "proj_out.weight",
    "lm_head.decoder.weight",
    "predictions.decoder.weight",
)
_DERIVED = ("rotary_emb.inv_freq", "attn.masked_bias", "attention.masked_bias", "embeddings.position_ids")


@lru_cache(maxsize=1 << 16)
def split_layer(name: str) -> tuple[str, int, str] | None:
    """Return ("model.layers.", 3, ".mlp.up_proj.weight"), or None outside the layers."""
    found = _LAYER.match(name)
    return (found[1], int(found[2]), found[3]) if found else None


def renumber(name: str, layer: int) -> str:
    """Return the name of the same tensor in another layer."""
    parts = split_layer(name)
    return f"{parts[0]}{layer}{parts[2]}" if parts else name


def layer_counts(names: Iterable[str]) -> dict[str, int]:
    """Return the number of layers of each stack by its prefix, as {"model.layers.": 32}."""
    counts: dict[str, int] = {}
    for name in names:
        if parts := split_layer(name):
            counts[parts[0]] = max(counts.get(parts[0], 0), parts[1] + 1)
    return counts


def layer_count(names: Iterable[str]) -> int:
    """Return the number of layers, of the tallest stack where there are several; 0 without layers."""
    return max(layer_counts(names).values(), default=0)


def outer_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names outside the layers (embeddings, final norm, head), sorted."""
    return tuple(sorted(name for name in names if split_layer(name) is None))


def embedding_name(names: Iterable[str]) -> str | None:
    """Return the name of the token embedding."""
    return next((name for name in outer_names(names) if _is_one_of(name, _EMBEDDINGS)), None)


def head_name(names: Iterable[str]) -> str | None:
    """Return the name of the output head; None where it is tied to the embedding and not stored."""
    return next((name for name in outer_names(names) if _is_one_of(name, _HEADS) or name == "output.weight"), None)


def _is_one_of(name: str, known: tuple[str, ...]) -> bool:
    """Whether a name ends with a known one; whole parts, as `position_embeddings` is no `embeddings`."""
    return f".{name}".endswith(tuple(f".{each}" for each in known))


def is_before_layers(name: str) -> bool:
    """Whether an outer tensor comes before the layers (embeddings), not after (final norm, head)."""
    after = "embed_out" in name or "embedding_norm" in name  # a head, and the name of LFM2's last norm
    return name.endswith(("wte.weight", "wpe.weight", "shared.weight")) or ("embed" in name and not after)


def is_derived(name: str) -> bool:
    """Whether a stored buffer follows from the config, so that a model may lack it."""
    return name.endswith(_DERIVED)
