"""A merge recipe: a frozen, validated value in mergekit's YAML dialect (github.com/arcee-ai/mergekit, README).

What differs from mergekit: unknown keys are refused instead of ignored, and `seed` (ours; mergekit ignores the
key) makes random methods reproducible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from engine.chat_template import check_chat_template
from engine.entries import KEYS, Frozen, ModelName, Models, ModuleEntry, Parameters, Slices, TokenizerEntry
from engine.errors import RecipeError, shown
from engine.lookup import nearest
from engine.parameters import Setting
from engine.strict_yaml import load_documents

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_LONGEST = 300
"""Letters of the user's own text in one message."""
_MOST = 20
"""Problems that are told at once."""
DTYPES = ("float16", "bfloat16", "float32", "float64")
UNSUPPORTED = {
    "residual_weight": "it has no effect; remove it",
}


def _dtype(value: Any) -> Any:
    name = str(value).removeprefix("torch.")
    if name == "int64":
        raise ValueError("int64 would cut every weight to a whole number; give a floating-point dtype")
    if name not in DTYPES:
        raise ValueError(f"{shown(value)} is not a dtype{nearest(name, DTYPES)} (known: {', '.join(DTYPES)})")
    return name


DtypeName = Annotated[str, BeforeValidator(_dtype)]


class Recipe(Frozen):
    """One merge. `models`, `slices` and `modules` exclude each other; so do `tokenizer_source` and `tokenizer`."""

    name: Annotated[str, Field(min_length=1)] | None = None
    models: Models | None = None
    slices: Slices | None = None
    modules: Annotated[dict[str, ModuleEntry], Field(min_length=1)] | None = None
    merge_method: str
    base_model: ModelName | None = None
    parameters: Parameters | None = None
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    tokenizer_source: ModelName | None = None
    tokenizer: TokenizerEntry | None = None
    chat_template: Annotated[str, AfterValidator(check_chat_template)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0

    @model_validator(mode="after")
    def _one_of(self) -> Recipe:
        if sum(part is not None for part in (self.models, self.slices, self.modules)) != 1:
            raise ValueError("give either `models` or `slices` or `modules`")
        if self.tokenizer is not None and self.tokenizer_source is not None:
            raise ValueError("give either `tokenizer` or `tokenizer_source`")
        return self

    @property
    def vocabulary(self) -> TokenizerEntry | None:
        """What is asked of the vocabulary; `tokenizer_source` is short for `tokenizer: {source}`."""
        return TokenizerEntry(source=self.tokenizer_source) if self.tokenizer_source else self.tokenizer

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Recipe:
        """Read a recipe. Raises RecipeError with all problems, one per line, each beginning with `where`."""
        documents = read_documents(text, where)
        if len(documents) > 1:
            raise RecipeError(
                f"{where}: has {len(documents)} documents, one for each stage; a single one is needed here"
            )
        return cls.from_content(documents[0] if documents else None, where)

    @classmethod
    def from_content(cls, content: Any, where: str = "recipe") -> Recipe:
        """Read a recipe from plain data, as `from_yaml` does."""
        if not isinstance(content, dict):
            raise RecipeError(f"{where}: not a mapping of keys such as merge_method and models")
        try:
            return cls.model_validate(content)
        except RecursionError:
            raise RecipeError(f"{where}: is nested too deeply; write it flatter") from None
        except ValidationError as error:
            found = [_problem(where, item) for item in error.errors()[:_MOST]]
            if error.error_count() > _MOST:
                found.append(f"{where}: and {error.error_count() - _MOST} problems more; mend these first")
            raise RecipeError("\n".join(found)) from None

    def _plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)

    def to_yaml(self) -> str:
        """Return YAML that `from_yaml` and mergekit read; no null keys, a seed only where one was chosen."""
        plain = self._plain()
        if not self.seed:
            del plain["seed"]
        dumped: str = yaml.dump(
            plain, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
        )
        return dumped

    @cached_property
    def digest(self) -> str:
        """sha256 of the canonical form: the same for 1 and 1.0, and for any order of keys.

        Kept, since a search asks for it again and again, and with a thousand values it takes some ten milliseconds.
        """
        plain = self._plain()
        plain.pop("name", None)  # what a merge is called changes nothing in it
        canonical = json.dumps(_canonical(plain), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Recipe:
        """As pydantic has it; what was changed has a digest of its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("digest", None)
        return copied

    @property
    def references(self) -> tuple[str, ...]:
        """Every model that is named, once, in order of first mention; the base first where there is one."""
        named: list[str | None] = [self.base_model]
        parts: list[Recipe | ModuleEntry] = [self, *(self.modules or {}).values()]
        for part in parts:
            named += [entry.model for entry in part.models or ()]
            for entry in part.slices or ():
                named += [entry.base_model] + [source.model for source in entry.sources]
        if self.vocabulary is not None:
            named += self.vocabulary.references()
        return tuple(dict.fromkeys(name for name in named if name is not None))


def _canonical(node: Setting) -> Setting:
    if isinstance(node, dict):
        return {key: _canonical(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    return float(node) if isinstance(node, int) and not isinstance(node, bool) else node


def read_documents(text: str, where: str) -> list[Any]:
    """Return the documents of a recipe's file as plain data. Raises RecipeError beginning with `where`."""
    try:
        return load_documents(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: not YAML: {' '.join(str(error).split())[:_LONGEST]}") from None


def _key(key: str) -> str:
    """A key as it stands in a message: on one line, and not longer than one."""
    return " ".join(key[:_LONGEST].split())


def _problem(where: str, item: Any) -> str:
    """One line for one of pydantic's errors."""
    location = "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in item["loc"])
    place = f"{where}: {location.lstrip('.')}: " if location else f"{where}: "
    key = str(item["loc"][-1]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        if key in UNSUPPORTED:
            return f"{place}{UNSUPPORTED[key]}"
        known = list(Recipe.model_fields)
        for part in item["loc"][:-1]:
            known = KEYS.get(str(part), known)
        return f"{place}unknown key{nearest(key, known)} (known: {', '.join(known)})"
    if item["type"] == "missing":
        return f"{place}missing; add it"
    message = item["msg"].removeprefix("Value error, ")
    return place + (message if item["type"] == "value_error" else f"{message}, not {shown(item['input'])}")
