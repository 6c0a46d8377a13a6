"""What ``l2o splat`` refuses."""

from l2o_splat.errors import L2OError


class SplatError(L2OError, RuntimeError):
    """No splat can be made of what was given, or a part has failed; the message says what to do."""
