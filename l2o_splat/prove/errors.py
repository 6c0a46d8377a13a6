"""Errors of ``l2o prove``."""

from l2o_splat.errors import L2OError


class ProveError(L2OError, ValueError):
    """An option of ``l2o prove`` cannot be used; the message says what to give instead."""


class UndecidedError(L2OError, RuntimeError):
    """A part cannot measure what it claims on this machine; the message says what it lacks."""
