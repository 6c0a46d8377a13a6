"""Errors of trainings."""

from l2o_splat.errors import L2OError


class TrainingError(L2OError, RuntimeError):
    """A training cannot start, or cannot go on; the message says why and what to do."""


class UnusableCaptureError(L2OError, ValueError):
    """No step can be made from a capture; the message says why. A training goes on with the next one."""
