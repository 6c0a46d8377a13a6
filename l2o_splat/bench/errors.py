"""The one error that a user of ``l2o bench`` can meet before the first run."""

from l2o_splat.errors import L2OError


class BenchError(L2OError, ValueError):
    """The sweep cannot be run as asked; the message says what was found, what is needed and what to do."""
