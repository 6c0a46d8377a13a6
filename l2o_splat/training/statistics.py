"""Numbers that one iteration of a training reports."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, TypeVar


class Statistics:
    """Base class of frozen dataclasses whose fields are numbers, or None for what was not measured."""

    def numbers(self) -> dict[str, float]:
        """Names and values for logs, without what was not measured."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: float(value) for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class StepStatistics(Statistics):
    """Numbers of one update of the weights; each training adds its own."""

    gradient_norm: float
    """Norm of the gradient before it was clipped; not finite if the weights stayed as they were."""


Step = TypeVar("Step", bound=StepStatistics)


@dataclass(frozen=True)
class IterationReport(Generic[Step]):
    """What an outer loop reports after an iteration."""

    step: Step
    validation: dict[str, float] | None = None
    """Quality on the validation captures by name, ``psnr`` (dB) among them; None between evaluations."""

    def numbers(self) -> dict[str, float]:
        """Names and values for logs."""
        return self.step.numbers() | (self.validation or {})
