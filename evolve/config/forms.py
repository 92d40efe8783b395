"""The forms that a value of search.yaml may take where there are several: ranges, choices, depths, objectives."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from engine.lookup import nearest


class Section(BaseModel):
    """Frozen; unknown keys are refused; numbers are finite, and not turned into texts or back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Interval(Section):
    low: float
    high: float

    @model_validator(mode="after")
    def ordered(self) -> Interval:
        if not self.low < self.high:
            raise ValueError(f"low must lie below high, got low {self.low} and high {self.high}")
        return self


class Smooth(Section):
    smooth: int = Field(ge=2, description="knots over depth, interpolated in between")


Scalar = bool | float | str


def distinct_choices(values: list[Scalar]) -> list[Scalar]:
    if not values or any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError(f"name at least one value to choose from, each once, got {values!r:.80}")
    return values


def kind(value: Any) -> str:
    """Which form of a union was meant, so that a mistake gives one message and not one per form."""
    if isinstance(value, dict):
        return "<range>"
    if isinstance(value, list):
        return "<choices>"
    return "<count>" if isinstance(value, int | float) and not isinstance(value, bool) else "<name>"


Bounds = Annotated[
    Annotated[Interval, Tag("<range>")]
    | Annotated[list[Scalar], AfterValidator(distinct_choices), Tag("<choices>")]
    | Annotated[float, Tag("<count>")]
    | Annotated[bool | str, Tag("<name>")],
    Discriminator(lambda value: "<range>" if isinstance(value, Interval) else kind(value)),
]
Layers = Annotated[
    Annotated[Annotated[int, Field(ge=1)], Tag("<count>")]
    | Annotated[Literal["per_layer"], Tag("<name>")]
    | Annotated[Smooth, Tag("<range>")],
    Discriminator(lambda value: "<range>" if isinstance(value, Smooth) else kind(value)),
]


Scale = Annotated[
    Annotated[Interval, Tag("<range>")] | Annotated[bool, Tag("<name>")],
    Discriminator(lambda value: "<range>" if isinstance(value, Interval) else kind(value)),
]


class Order(Section):
    rounds: int = Field(1, ge=1, description="how often all layers are laid out; those of later rounds begin left out")
    repeats: int = Field(2, ge=1, description="how often a layer stands in a row at most")
    move: int = Field(3, ge=0, description="by how many places a layer moves at most")
    scale: Scale = Field(True, description="a gene for how much later passes through a layer add: true or {low, high}")


Orders = Annotated[
    Annotated[Order, Tag("<range>")] | Annotated[bool, Tag("<name>")],
    Discriminator(lambda value: "<range>" if isinstance(value, Order) else kind(value)),
]


def plain_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Only what JSON bears: a resolved search.yaml must say the same again."""
    for name, value in values.items():
        try:
            again = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            again = None
        if again != value:
            raise ValueError(f"{name} must be a text, a number, true or false, or a list of them, got {value!r:.60}")
    return values


Settings = Annotated[dict[str, Any], AfterValidator(plain_settings)]


class Shares(Section):
    metric: float = Field(0.0, ge=0, description="share of the oriented metric")
    loglikelihood: float = Field(0.0, ge=0, description="share of the right answers' log-likelihood")

    @model_validator(mode="after")
    def something(self) -> Shares:
        if self.metric + self.loglikelihood == 0:
            raise ValueError("both shares are 0; give at least one of metric and loglikelihood a share above 0")
        return self


OBJECTIVES = ("metric", "loglikelihood")


def known_objective(value: str) -> str:
    if value not in OBJECTIVES:
        hint = nearest(value, OBJECTIVES) or f"; one of {', '.join(OBJECTIVES)}"
        raise ValueError(f"no objective named {value!r}{hint} (or give shares: {{metric: 1.0, loglikelihood: 0.2}})")
    return value


Objectives = Annotated[
    Annotated[Shares, Tag("<range>")] | Annotated[str, AfterValidator(known_objective), Tag("<name>")],
    Discriminator(lambda value: "<range>" if isinstance(value, Shares) else kind(value)),
]
