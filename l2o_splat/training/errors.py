"""The error that keeps a training from starting."""

from l2o_splat.errors import L2OError


class TrainingError(L2OError, RuntimeError):
    """A training cannot start; the message says why and what to do."""
