"""A gene: one named number or choice of a recipe, mapped to and from the unit interval."""

from __future__ import annotations

from dataclasses import dataclass

Value = float | str | bool


@dataclass(frozen=True)
class Gene:
    """A continuous gene when `choices` is empty, else one of `choices` (equal shares of the interval)."""

    name: str
    low: float = 0.0
    high: float = 1.0
    choices: tuple[Value, ...] = ()

    def from_unit(self, unit: float) -> Value:
        """The gene's value at `unit` in [0, 1]; points outside are moved to the nearer end."""
        unit = min(max(float(unit), 0.0), 1.0)
        if self.choices:
            return self.choices[min(int(unit * len(self.choices)), len(self.choices) - 1)]
        return self.low + unit * (self.high - self.low)

    def to_unit(self, value: Value) -> float:
        """The place of `value` in [0, 1]: the middle of a choice's share; the nearer end beyond bounds."""
        if self.choices:
            return (self.choices.index(value) + 0.5) / len(self.choices)
        return min(max((float(value) - self.low) / (self.high - self.low), 0.0), 1.0)
