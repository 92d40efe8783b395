"""A merge recipe: a frozen, validated value in mergekit's YAML dialect (github.com/arcee-ai/mergekit, README).

What differs from mergekit: unknown keys are refused instead of ignored, and `seed` (ours; mergekit ignores the
key) makes random methods reproducible.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from engine.errors import RecipeError
from engine.lookup import nearest
from engine.parameters import Setting, check_setting

T = TypeVar("T")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where it was built in, is ten times faster
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
DTYPES = ("float16", "bfloat16", "float32", "float64")
UNSUPPORTED = {
    "modules": "models of several modules are not supported yet",
    "tokenizer": "only `tokenizer_source: base | union | <model>` is supported",
    "chat_template": "the tokenizer's own template is kept; edit it in the merged checkpoint",
    "residual_weight": "it has no effect; remove it",
}


def _dtype(value: Any) -> Any:
    name = str(value).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"{value!r} is not a dtype{nearest(name, DTYPES)} (known: {', '.join(DTYPES)})")
    return name


def _model_name(value: Any) -> Any:
    """Accept mergekit's mapping form of a model, {model: {path, revision}, lora: {path, revision}}, as text."""
    if isinstance(value, Mapping) and "model" in value and not set(value) - {"model", "lora"}:
        return "+".join(_model_name(value[key]) for key in ("model", "lora") if value.get(key))
    if isinstance(value, Mapping) and "path" in value and not set(value) - {"path", "revision"}:
        return f"{value['path']}@{value['revision']}" if value.get("revision") else str(value["path"])
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} names no model; give a folder or a Hub id")
    return value


def _layer_range(value: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= value[0] < value[1]:
        raise ValueError(f"{list(value)} holds no layers; write [first, last + 1]")
    return value


def _some(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise ValueError("the list is empty; name at least one model")
    return value


ModelName = Annotated[str, BeforeValidator(_model_name)]
DtypeName = Annotated[str, BeforeValidator(_dtype)]
Parameters = dict[str, Annotated[Any, AfterValidator(check_setting)]]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(_Frozen):
    """One model of `models:`, all of its layers."""

    model: ModelName
    parameters: Parameters | None = None


class SliceSource(_Frozen):
    """Some layers of one model: [first, last + 1] counted from 0."""

    model: ModelName
    layer_range: Annotated[tuple[int, int], AfterValidator(_layer_range)]
    parameters: Parameters | None = None


class SliceEntry(_Frozen):
    """A block of output layers, merged from equally many layers of each source."""

    sources: Annotated[tuple[SliceSource, ...], AfterValidator(_some)]
    base_model: ModelName | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _equal_spans(self) -> SliceEntry:
        spans = [source.layer_range[1] - source.layer_range[0] for source in self.sources]
        if len(set(spans)) > 1:
            raise ValueError(f"the sources span {spans} layers; all sources of a slice must span equally many")
        return self


class Recipe(_Frozen):
    """One merge. `models` and `slices` exclude each other."""

    models: Annotated[tuple[ModelEntry, ...], AfterValidator(_some)] | None = None
    slices: Annotated[tuple[SliceEntry, ...], AfterValidator(_some)] | None = None
    merge_method: str
    base_model: ModelName | None = None
    parameters: Parameters | None = None
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    tokenizer_source: ModelName | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_of(self) -> Recipe:
        if (self.models is None) == (self.slices is None):
            raise ValueError("give either `models` or `slices`")
        return self

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Recipe:
        """Read a recipe. Raises RecipeError with all problems, one per line, each beginning with `where`."""
        try:
            content = yaml.load(text, Loader=_LOADER)
        except yaml.YAMLError as error:
            raise RecipeError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict):
            raise RecipeError(f"{where}: not a mapping of keys such as merge_method and models")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise RecipeError("\n".join(_problem(where, item) for item in error.errors())) from None

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

    @property
    def digest(self) -> str:
        """sha256 of the canonical form: the same for 1 and 1.0, and for any order of keys."""
        canonical = json.dumps(_canonical(self._plain()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def references(self) -> tuple[str, ...]:
        """Every model that is named, once, in order of first mention; the base first where there is one."""
        named = [self.base_model] + [entry.model for entry in self.models or ()]
        for entry in self.slices or ():
            named += [entry.base_model] + [source.model for source in entry.sources]
        if self.tokenizer_source not in ("base", "union"):
            named.append(self.tokenizer_source)
        return tuple(dict.fromkeys(name for name in named if name is not None))


def _canonical(node: Setting) -> Setting:
    if isinstance(node, dict):
        return {key: _canonical(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    return float(node) if isinstance(node, int) and not isinstance(node, bool) else node


_FIELDS = {
    "models": list(ModelEntry.model_fields),
    "slices": list(SliceEntry.model_fields),
    "sources": list(SliceSource.model_fields),
}


def _problem(where: str, item: Any) -> str:
    """One line for one of pydantic's errors."""
    location = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])
    place = f"{where}: {location.lstrip('.')}: " if location else f"{where}: "
    key = str(item["loc"][-1]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        if key in UNSUPPORTED:
            return f"{place}{UNSUPPORTED[key]}"
        known = list(Recipe.model_fields)
        for part in item["loc"][:-1]:
            known = _FIELDS.get(str(part), known)
        return f"{place}unknown key{nearest(key, known)} (known: {', '.join(known)})"
    if item["type"] == "missing":
        return f"{place}missing; add it"
    message = item["msg"].removeprefix("Value error, ")
    return place + (message if item["type"] == "value_error" else f"{message}, not {item['input']!r}")
