"""What config.json says about single layers, after slices have taken layers away, repeated or mixed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.blocks import Part
from engine.checkpoint import Checkpoint
from engine.errors import RecipeError
from engine.layout import layout

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
_ENCODER = ("encoder_layers", "num_encoder_layers", "num_layers", "num_hidden_layers")
_DECODER = ("decoder_layers", "num_decoder_layers")
_VISION = ("vision", "visual", "image")
_AUDIO = ("audio", "speech")
_FULL, _SLIDING = "full_attention", "sliding_attention"
# Lists of layers by number, under these endings or names.
_INDICES = ("_idxs", "_indices", "_idx", "mlp_only_layers")

Origins = Sequence[tuple[Checkpoint, int]]
"""For each output layer, the model and the layer there that its kind follows."""


def origins(part: Part) -> Origins:
    """Return where the output's layers come from."""
    return [
        (block.lead.checkpoint, (block.lead.first or 0) + offset)
        for block in part.blocks
        for offset in range(block.layers or 0)
    ]


def text_section(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a config that describes the language model: `text_config`, or all of it."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def set_layers(config: dict[str, Any], owner: Checkpoint, part: Part) -> None:
    """Set layer counts and per-layer lists in `config` (the owner's, copied) for the layers of a part.

    Raises RecipeError where the number of layers changes and no key counts them.
    """
    before = layout(owner).counts.get(part.stack or "", 0)
    made = origins(part)
    path = _section(config, part.module)
    section = _at(config, path)
    counts = _count_keys(section, part.module, before)
    if not counts and len(made) != before:
        raise RecipeError(
            f"{part.blocks[0].where}: the output has {len(made)} layers, but no key of config.json says that"
            f" {part.module or owner.reference} has {before}; keep their number"
        )
    for key in counts:
        section[key] = len(made)
    for key in [key for key, value in section.items() if _is_per_layer(key, value, before)]:
        section[key] = [_entry(_at(c.config, path), key, layer, section[key]) for c, layer in made]
    for key in [key for key, value in section.items() if _is_indices(key, value, before)]:
        listed = [(_list(_at(c.config, path), key, section[key]), layer) for c, layer in made]
        section[key] = [i for i, (there, layer) in enumerate(listed) if layer in there]
    _set_experts(section, [(_at(c.config, path), layer) for c, layer in made], part.blocks[0].where)
    if "layer_types" not in section and (types := _layer_types(path, made)):
        section["layer_types"] = types


def _set_experts(section: dict[str, Any], made: Sequence[tuple[Mapping[str, Any], int]], where: str) -> None:
    """Keep dense layers dense where a rule by number says which layers have experts."""
    if type(section.get("first_k_dense_replace")) is int:  # DeepSeek: layers before the k-th are dense
        dense = [layer < there.get("first_k_dense_replace", 0) for there, layer in made]
        leading = dense.index(False) if False in dense else len(dense)
        if any(dense[leading:]):
            raise RecipeError(
                f"{where}: dense layers would come after layers with experts, which first_k_dense_replace cannot say;"
                " keep the dense ones at the bottom"
            )
        section["first_k_dense_replace"] = leading
    if type(section.get("decoder_sparse_step")) is int and section["decoder_sparse_step"] > 1:  # Qwen: every n-th
        section["mlp_only_layers"] = [i for i, (there, layer) in enumerate(made) if not _has_experts(there, layer)]
        section["decoder_sparse_step"] = 1


def _has_experts(config: Mapping[str, Any], layer: int) -> bool:
    step, dense = config.get("decoder_sparse_step"), config.get("mlp_only_layers") or ()
    return layer not in dense and (type(step) is not int or step < 1 or (layer + 1) % step == 0)


def _section(config: Mapping[str, Any], module: str | None) -> tuple[str, ...]:
    """The keys that lead to the section of a module: `vision_config` for one that sees, `text_config` by default."""
    for hints in (_VISION, _AUDIO):
        if module is not None and any(hint in module for hint in hints):
            for key, value in config.items():
                if isinstance(value, dict) and key.endswith("_config") and any(hint in key for hint in hints):
                    return (key,)
    return ("text_config",) if isinstance(config.get("text_config"), dict) else ()


def _at(config: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    for key in path:
        nested = config.get(key)
        config = nested if isinstance(nested, dict) else {}
    return config


def _count_keys(section: Mapping[str, Any], module: str | None, before: int) -> list[str]:
    known: Sequence[str] = _COUNTS
    if module == "encoder":
        # `num_layers` and `num_hidden_layers` count the encoder's where the decoder has a key of its own.
        known = _ENCODER
    elif module == "decoder":
        known = [key for key in _DECODER if key in section] or _COUNTS
    return [key for key in known if type(section.get(key)) is int and (section[key] == before or module is None)]


def _is_per_layer(key: str, value: Any, layers: int) -> bool:
    """A list as long as there are layers, under a name that speaks of layers: `layer_types`, `no_rope_layers`."""
    return isinstance(value, list) and len(value) == layers and "layer" in key and not _is_indices(key, value, layers)


def _is_indices(key: str, value: Any, layers: int) -> bool:
    """A list of layers by number: `mlp_only_layers`, `full_attn_idxs`."""
    if not isinstance(value, list) or not key.endswith(_INDICES):
        return False
    return all(type(item) is int and 0 <= item < layers for item in value) and len(set(value)) == len(value)


def _list(config: Mapping[str, Any], key: str, fallback: list[Any]) -> list[Any]:
    there = config.get(key)
    return there if isinstance(there, list) else fallback


def _entry(config: Mapping[str, Any], key: str, layer: int, fallback: list[Any]) -> Any:
    there = _list(config, key, fallback)
    return there[layer] if layer < len(there) else fallback[layer % len(fallback)]


def _layer_types(path: Sequence[str], made: Origins) -> list[str] | None:
    """The kinds of attention where configs give a rule by a layer's number, which no longer holds; else None."""
    kinds = [_kind(_at(checkpoint.config, path), layer) for checkpoint, layer in made]
    return None if any(kind is None for kind in kinds) else [kind for kind in kinds if kind is not None]


def _kind(config: Mapping[str, Any], layer: int) -> str | None:
    pattern = config.get("sliding_window_pattern")
    if type(pattern) is int and pattern > 0:  # Gemma: every n-th layer sees everything
        return _FULL if (layer + 1) % pattern == 0 else _SLIDING
    first = config.get("max_window_layers")
    if type(first) is int and config.get("use_sliding_window"):  # Qwen: layers from this one on slide
        return _SLIDING if layer >= first else _FULL
    return None
