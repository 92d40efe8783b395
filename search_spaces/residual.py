"""Which tensors of a layer write what it adds to the residual stream, so that scaling them scales that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from engine.architecture import split_layer

WRITERS = (  # how model code calls the matrices whose product is added to the residual stream
    *("o_proj", "out_proj", "c_proj", "wo", "dense"),
    *("down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2"),
)
NORMALISED = ("post_feedforward_layernorm", "post_mlp_layernorm")  # what is added passes through a norm first


def residual_writers(shapes: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Parts of tensors' names, as filters of recipes, of what a layer's parts write to the residual stream with.

    `shapes`: of all tensors. Empty where some part has no writer that is known, or what it adds is normalised.
    """
    inner = [parts[2] for name, shape in shapes.items() if len(shape) > 1 and (parts := split_layer(name))]
    if any(norm in name for name in shapes for norm in NORMALISED):
        return ()
    found = [f".{word}" + "." * (f".{word}." in name) for name in inner for word in WRITERS if word in name.split(".")]
    counts = Counter(name.split(".")[1] for name in set(inner))
    silent = [part for part, count in counts.items() if count > 1 and not written(part, inner)]
    return () if silent else tuple(dict.fromkeys(found))


def written(part: str, inner: Sequence[str]) -> bool:
    return any(set(WRITERS) & set(name.split(".")) for name in inner if name.split(".")[1] == part)
