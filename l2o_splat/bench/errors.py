"""The error that keeps a sweep from starting."""

from l2o_splat.errors import L2OError


class BenchError(L2OError, ValueError):
    """The sweep cannot be run as asked; the message says what was found, what is needed and what to do."""
