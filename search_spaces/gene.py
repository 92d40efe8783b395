"""A gene: one named number or choice of a recipe, mapped to and from the unit interval."""

from __future__ import annotations

from dataclasses import dataclass

Value = float | str | bool


@dataclass(frozen=True)
class Gene:
    """A continuous gene when `choices` is empty, else one of `choices`; choices and whole numbers have equal shares of
    the interval.

    Where it stands in a recipe: `parameter` of the merge method, `model` (its label, "" where all share it), `group`
    (a module group, "layers" or "rest" for what the groups leave of a layer, "outer" outside of the layers) and
    `position`, the place over depth counted from 0 (None: the whole model, or outside of the layers). `method`: the
    only one that asks for it where several are searched, "" for all that have the parameter.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Value, ...] = ()
    integer: bool = False
    parameter: str = ""
    model: str = ""
    group: str = ""
    position: int | None = None
    method: str = ""

    def from_unit(self, unit: float) -> Value:
        """The gene's value at `unit` in [0, 1]; points outside are moved to the nearer end."""
        unit = min(max(float(unit), 0.0), 1.0)
        if self.choices:
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        if self.integer:
            return int(self.low) + min(int(unit * self._count), self._count - 1)
        return self.low + unit * (self.high - self.low)

    def to_unit(self, value: Value) -> float:
        """The place of `value` in [0, 1]: the middle of a choice's share; the nearer end beyond bounds."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        if self.integer:
            nearest = min(max(round(float(value)), int(self.low)), int(self.high))
            return (nearest - int(self.low) + 0.5) / self._count
        return min(max((float(value) - self.low) / (self.high - self.low), 0.0), 1.0)

    @property
    def _count(self) -> int:
        return int(self.high) - int(self.low) + 1
