"""The `space` section of search.yaml: what a search may vary."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evolve.config.forms import Bounds, Layers, Orders, Scale, Section


class Space(Section):
    method: tuple[str, ...] = Field(
        ("task_arithmetic",), description="a merge method, or a list: the method is a gene then"
    )
    layers: Layers = Field(
        "per_layer", description="per_layer, or blocks of layers with genes of their own, or {smooth: knots}"
    )
    modules: tuple[str, ...] | None = Field(
        None,
        strict=False,
        description="module groups with genes of their own, by part of a tensor's name; "
        "null: attention and MLP apart, where layers is per_layer",
    )
    parameters: dict[str, Bounds] = Field(
        {}, description="narrower bounds {low, high}, values to choose from [..], or a fixed value"
    )
    scale: Scale = Field(
        False,
        description="one gene more: the factor of the merged task vector, true or {low, high} (lambda in recipes)",
    )
    negative: bool = Field(False, description="weights of task vectors go as far below zero as above it")
    subset: bool = Field(False, description="a gene for every source that says whether it takes part")
    order: Orders = Field(
        False, description="search the order of whole layers instead, true or {rounds, repeats, move, scale}"
    )
    out_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="of the merged checkpoint; null: as the base"
    )

    @field_validator("method", mode="before")
    @classmethod
    def one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value

    @field_validator("method")
    @classmethod
    def some_method(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("name at least one method, each once")
        return value

    @model_validator(mode="after")
    def order_stands_alone(self) -> Space:
        usual = type(self).model_fields
        besides = [
            name for name in usual if name not in ("order", "out_dtype") and getattr(self, name) != usual[name].default
        ]
        if self.order and besides:
            raise ValueError(
                f"order lays out whole layers as they are, and has no {', '.join(besides)}; leave one of them out"
            )
        return self
