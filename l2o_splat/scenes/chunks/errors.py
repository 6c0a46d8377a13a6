"""Errors of chunks."""

from l2o_splat.errors import L2OError


class ChunkError(L2OError, ValueError):
    """A chunk, its index or one of its scenes is damaged or not there; the message says which and what to do."""


class TooFewFramesError(ChunkError):
    """A scene is whole, but has too few frames for the views that are wanted."""
