"""YAML as a person means it: a key that stands twice is a mistake, and every mistake is one kind of error."""

from __future__ import annotations

from io import StringIO
from typing import Any

import yaml

from engine.errors import shown

_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where it was built in, is ten times faster

_REPEATED = 200_000
"""Letters and values that aliases may add to a document; a few lines of aliases of aliases can stand for terabytes."""


class StrictLoader(_SAFE):  # type: ignore[misc]
    """PyYAML keeps the last of two equal keys in silence; here the second one is an error."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Construct a document. Raises ConstructorError where its aliases stand for too much."""
        sizes: dict[int, tuple[int, int]] = {}
        if _expanded(node, sizes) - sum(own for own, _ in sizes.values()) > _REPEATED:
            raise _refused(node, "the aliases (*name) stand for too much")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping. Raises ConstructorError for a key that stands twice."""
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {shown(key.value)} stands twice", key.start_mark
                    )
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _expanded(node: yaml.Node, sizes: dict[int, tuple[int, int]]) -> int:
    """Letters and values in a node, every alias replaced by what it names.

    `sizes` holds for each node, by its id, its own share and the whole; 0 while it is being counted.
    """
    if id(node) in sizes:
        whole = sizes[id(node)][1]
        if not whole:
            raise _refused(node, "an alias (*name) stands within what it names")
        return whole
    own, parts = 1, []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    else:
        own += len(node.value)
    sizes[id(node)] = (own, 0)
    whole = own
    for part in parts:  # no generator: each would take a level of the stack
        whole += _expanded(part, sizes)
    sizes[id(node)] = (own, whole)
    return whole


def _refused(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, f"{problem}; write out what is meant", node.start_mark)


def load_yaml(text: str) -> Any:
    """The text's only document as plain data. Raises yaml.YAMLError, also for values that cannot be made."""
    documents = load_documents(text)
    if len(documents) > 1:
        raise yaml.YAMLError(f"has {len(documents)} documents (`---` begins another one); give one")
    return documents[0] if documents else None


def load_documents(text: str) -> list[Any]:
    """All documents of the text as plain data. Raises yaml.YAMLError, also for values that cannot be made."""
    stream = StringIO(text)
    stream.name = "the file"  # as messages call it
    try:
        return list(yaml.load_all(stream, StrictLoader))
    except RecursionError:
        raise yaml.YAMLError("is nested too deeply") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # PyYAML's own constructors: 2020-13-45, !!int x
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None
