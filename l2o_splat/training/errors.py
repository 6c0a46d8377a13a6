"""Errors of trainings."""


class TrainingError(RuntimeError):
    """A training cannot start, or cannot go on; the message says why and what to do."""


class UnusableCaptureError(ValueError):
    """No step can be made from a capture; the message says why. A training goes on with the next one."""
