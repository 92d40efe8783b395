"""Attributes that a text column of MySQL cannot hold (64 KB), cut into parts, and long points packed.

A large value is JSON text in parts under keys of their own, and its own key says where they are. Whoever writes it anew
takes the other one of two slots, so that the key names whole parts at every moment.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

LARGEST = 60_000  # characters of JSON in one attribute
PART = 30_000  # characters of a part: as JSON in JSON it may double
PARTS = "evolve parts"  # the key of [slot, number of parts] in what stands for a large value
PREFIX = "part:"  # of the parts' keys
FLOAT64 = "float64"
LISTED = 64  # numbers of a point that stay legible


def cut(key: str, value: Any, before: Any = None) -> dict[str, Any]:
    """The attributes that hold a value, its own key last. `before`: what stands under it now."""
    text = json.dumps(value)
    if len(text) <= LARGEST:
        return {key: value}
    slot = 1 - before[PARTS][0] if is_head(before) else 0
    parts = [text[begin : begin + PART] for begin in range(0, len(text), PART)]
    return {f"{PREFIX}{key}:{slot}:{number}": part for number, part in enumerate(parts)} | {
        key: {PARTS: [slot, len(parts)]}
    }


def is_head(value: Any) -> bool:
    """Whether a value stands in parts elsewhere."""
    return isinstance(value, dict) and list(value) == [PARTS]


def joined(key: str, attributes: Mapping[str, Any]) -> Any:
    """The value of a key out of what `cut` made of it."""
    head = attributes[key]
    if not is_head(head):
        return head
    slot, count = head[PARTS]
    return json.loads("".join(attributes[f"{PREFIX}{key}:{slot}:{number}"] for number in range(count)))


def packed(point: Sequence[float]) -> Any:
    """A point as JSON holds it: numbers, or the bytes of many (little-endian, base64), half as long and exact."""
    if len(point) <= LISTED:
        return list(point)
    return {FLOAT64: base64.b64encode(struct.pack(f"<{len(point)}d", *point)).decode("ascii")}


def unpacked(data: Any) -> tuple[float, ...]:
    if not isinstance(data, dict):
        return tuple(data)
    content = base64.b64decode(data[FLOAT64])
    return struct.unpack(f"<{len(content) // 8}d", content)
