"""Why a scene cannot be shared as asked."""

from l2o_splat.errors import L2OError


class SharingError(L2OError, ValueError):
    """A file format cannot hold the scene, or the cameras do not say what was asked of them."""
