"""Changes of an input that keep its form: a tree whose values are exchanged for hostile ones, or moved about."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

import yaml

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**18, -(2**63), 10**400, 0.5, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), "", " ", "a" * 300, "../x", "/etc/passwd", "\x00", "\x1b[2J", "\ud800",
    "a\nb", "{{ 9**9 }}", "nan", "1e999", "true", "null", "~", "~nobody", "org/name", "a+b+c", "a@b@c", "*", "%s",
    "\u202e", "é", [], {}, [[]], [{}], {"": None}, {"value": 1}, {"filter": 1}, [0] * 50, "2020-13-45", "x" * 5000,
)  # fmt: skip
DEEPEST = 200


def mutate(data: bytes, form: str, seed: int) -> bytes | None:
    """None where the data is not of that form."""
    draw = random.Random(seed)
    if form == "shard":
        return of_shard(data, draw)
    load, dump = {"json": (json.loads, to_json), "yaml": (to_tree, to_yaml)}.get(form, (None, None))
    if load is None or dump is None:
        return None
    try:
        return dump(changed(load(data.decode()), draw))
    except Exception:  # whatever a parser or a writer trips over: bytes are changed then
        return None


def of_shard(data: bytes, draw: random.Random) -> bytes | None:
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header = to_json(changed(json.loads(data[8 : 8 + size]), draw))
    except Exception:
        return None
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def to_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def to_tree(text: str) -> Any:
    found = list(yaml.load_all(text, Loader))
    return found[0] if len(found) == 1 else found


class Loader(yaml.SafeLoader):
    """Keeps `!function name` as a text that says so."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix} {getattr(node, 'value', '')}")


def to_yaml(tree: Any) -> bytes:
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).replace("'!function", "!function '").encode()


def changed(tree: Any, draw: random.Random) -> Any:
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        tree = once(tree, draw)
    return tree


def places_of(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key or index) of all values."""
    found, waiting = [], [tree]
    while waiting and len(found) < 5000:
        each = waiting.pop()
        pairs = each.items() if isinstance(each, dict) else enumerate(each) if isinstance(each, list) else ()
        for key, value in pairs:
            found.append((each, key))
            waiting.append(value)
    return found


def once(tree: Any, draw: random.Random) -> Any:
    places = places_of(tree)
    if not places:
        return copy.deepcopy(draw.choice(HOSTILE))
    holder, key = draw.choice(places)
    how = draw.randrange(8)
    if how <= 2:
        holder[key] = copy.deepcopy(draw.choice(HOSTILE))
    elif how == 3:
        del holder[key]
    elif how == 4:  # a value of elsewhere
        other, name = draw.choice(places)
        holder[key] = copy.deepcopy(other[name])
    elif how == 5 and isinstance(holder, dict):  # another key
        value = holder.pop(key)
        hostile = draw.choice(HOSTILE)
        holder[hostile if isinstance(hostile, str) else str(key) + draw.choice("x.0/ ")] = value
    elif how == 6:  # deeper
        for _ in range(draw.choice((1, 2, DEEPEST))):
            holder[key] = [holder[key]] if draw.random() < 0.5 else {"a": holder[key]}
    elif isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = holder[key] + draw.choice((1, -1, 8, 0.5, 2**32))
    elif isinstance(holder[key], str):
        text = holder[key]
        at = draw.randrange(len(text) + 1)
        holder[key] = (
            text[:at] + draw.choice(("", ".", "\n", "\x00", "*", ")", "0", "é", "[")) + text[at + draw.randrange(2) :]
        )
    elif isinstance(holder[key], list):
        holder[key] = holder[key] * draw.choice((0, 2, 30))
    return tree
