"""The parts of a recipe: models, slices, modules and the tokenizer section, each a frozen validated value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from engine.errors import shown
from engine.parameters import check_setting

T = TypeVar("T")

_MANY = 2**31
"""More rows or layers than any model has."""


def _model_name(value: Any) -> Any:
    """Accept mergekit's mapping form of a model, {model: {path, revision}, lora: {path, revision}}, as text."""
    if isinstance(value, Mapping) and value.get("override_architecture"):
        raise ValueError("override_architecture is not needed: names and shapes of tensors say what fits; remove it")
    if isinstance(value, Mapping) and "model" in value and not set(value) - {"model", "lora", "override_architecture"}:
        return "+".join(_model_name(value[key]) for key in ("model", "lora") if value.get(key))
    if isinstance(value, Mapping) and "path" in value and not set(value) - {"path", "revision"}:
        return f"{value['path']}@{value['revision']}" if value.get("revision") else str(value["path"])
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{shown(value)} names no model; give a folder or a Hub id")
    return value


def _layer_range(value: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= value[0] < value[1]:
        raise ValueError(f"{shown(list(value))} holds no layers; write [first, last + 1]")
    if value[1] > _MANY:
        raise ValueError(f"{shown(list(value))} holds more layers than any model; write [first, last + 1]")
    return value


def _some(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise ValueError("the list is empty; name at least one model")
    return value


ModelName = Annotated[str, BeforeValidator(_model_name)]
Parameters = dict[str, Annotated[Any, AfterValidator(check_setting)]]


class Frozen(BaseModel):
    """A value that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(Frozen):
    """One model of `models:`, all of its layers."""

    model: ModelName
    parameters: Parameters | None = None


class SliceSource(Frozen):
    """Some layers of one model: [first, last + 1] counted from 0."""

    model: ModelName
    layer_range: Annotated[tuple[int, int], AfterValidator(_layer_range)]
    parameters: Parameters | None = None


class SliceEntry(Frozen):
    """A block of output layers, merged from equally many layers of each source."""

    sources: Annotated[tuple[SliceSource, ...], AfterValidator(_some)]
    base_model: ModelName | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _equal_spans(self) -> SliceEntry:
        spans = [source.layer_range[1] - source.layer_range[0] for source in self.sources]
        if len(set(spans)) > 1:
            raise ValueError(f"the sources span {shown(spans)} layers; all sources of a slice must span equally many")
        return self


Models = Annotated[tuple[ModelEntry, ...], AfterValidator(_some)]
Slices = Annotated[tuple[SliceEntry, ...], AfterValidator(_some)]


class ModuleEntry(Frozen):
    """One module of a model that has several, such as a vision tower or a decoder."""

    models: Models | None = None
    slices: Slices | None = None
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _one_of(self) -> ModuleEntry:
        if (self.models is None) == (self.slices is None):
            raise ValueError("give either `models` or `slices`")
        return self


class ZeroRow(Frozen):
    """A token's source: a row of zeros."""

    kind: Literal["zero"]


class ModelToken(Frozen):
    """A token's source: the row of some token of a model, by its text or its id."""

    kind: Literal["model_token"]
    model: ModelName
    token: str | None = None
    token_id: Annotated[int, Field(ge=0, lt=_MANY)] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> ModelToken:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("give either `token` or `token_id`")
        return self


def _token_source(value: Any) -> Any:
    if not isinstance(value, Mapping) or "kind" not in value:
        return value if isinstance(value, (ZeroRow, ModelToken)) else _model_name(value)
    if value["kind"] == "zero":
        return ZeroRow.model_validate(value)
    if value["kind"] == "model_token":
        return ModelToken.model_validate(value)
    raise ValueError(
        f"kind is {shown(value['kind'])}; give zero or model_token, or a model's name in place of the mapping"
    )


class TokenEntry(Frozen):
    """Where a token's row comes from in models that lack it; in all of them where `force` is true."""

    source: Annotated[str | ZeroRow | ModelToken, BeforeValidator(_token_source)] | None = None
    force: bool = False

    @model_validator(mode="after")
    def _forced_from_somewhere(self) -> TokenEntry:
        if self.force and self.source is None:
            raise ValueError("force needs a source; add it")
        return self


class TokenizerEntry(Frozen):
    """The output's vocabulary: whose tokens, where single rows come from, and how many rows there are."""

    source: ModelName = "union"
    tokens: dict[str, TokenEntry] | None = None
    pad_to_multiple_of: Annotated[int, Field(gt=0, lt=_MANY)] | None = None

    def references(self) -> Iterator[str]:
        """Yield the models that are named, `base` and `union` aside."""
        named = [self.source]
        for token in (self.tokens or {}).values():
            if isinstance(token.source, ModelToken):
                named.append(token.source.model)
            elif isinstance(token.source, str):
                named.append(token.source)
        yield from (name for name in named if name not in ("base", "union"))


KEYS: dict[str, list[str]] = {
    "models": list(ModelEntry.model_fields),
    "slices": list(SliceEntry.model_fields),
    "sources": list(SliceSource.model_fields),
    "modules": list(ModuleEntry.model_fields),
    "tokenizer": list(TokenizerEntry.model_fields),
    "tokens": list(TokenEntry.model_fields),
    "ModelToken": list(ModelToken.model_fields),
}
"""The keys that each part knows, for messages."""
