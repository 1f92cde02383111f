"""One measured number, as every benchmark returns it and every report prints it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """`value` in `unit`; with a goal, its wording (such as ">= 0.6") and whether it was met."""

    name: str
    value: float
    unit: str
    goal: str | None = None
    met: bool | None = None

    def __str__(self) -> str:
        number = f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.3g}"
        goal = "" if self.goal is None else f"   goal {self.goal}: {'met' if self.met else 'MISSED'}"
        return f"{self.name:44} {number:>12} {self.unit}{goal}"
