"""YAML as a person means it: a key that stands twice is a mistake, and every mistake is one kind of error."""

from __future__ import annotations

from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; here the second one is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """The text as plain data. Raises yaml.YAMLError, for values that cannot be made from their text as well."""
    try:
        return yaml.load(text, StrictLoader)
    except RecursionError:
        raise yaml.YAMLError("is nested too deeply") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:  # PyYAML's own constructors: 2020-13-45, !!int x
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None
