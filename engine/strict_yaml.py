"""YAML as a person means it: a key that stands twice is a mistake, and every mistake is one kind of error."""

from __future__ import annotations

from typing import Any

import yaml

_SAFE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where it was built in, is ten times faster


class StrictLoader(_SAFE):  # type: ignore[misc]
    """PyYAML keeps the last of two equal keys in silence; here the second one is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping. Raises ConstructorError for a key that stands twice."""
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def load_yaml(text: str) -> Any:
    """The text's only document as plain data. Raises yaml.YAMLError, also for values that cannot be made."""
    documents = load_documents(text)
    if len(documents) > 1:
        raise yaml.YAMLError(f"has {len(documents)} documents (`---` begins another one); give one")
    return documents[0] if documents else None


def load_documents(text: str) -> list[Any]:
    """All documents of the text as plain data. Raises yaml.YAMLError, also for values that cannot be made."""
    try:
        return list(yaml.load_all(text, StrictLoader))
    except RecursionError:
        raise yaml.YAMLError("is nested too deeply") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # PyYAML's own constructors: 2020-13-45, !!int x
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None
