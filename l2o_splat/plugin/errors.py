"""How a command of nerfstudio ends if a capture, a file or an option is at fault: with one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from l2o_splat.errors import L2OError


class PluginError(L2OError, ValueError, SystemExit):
    """An expected failure while nerfstudio runs our code.

    ``ns-eval``, ``ns-render``, ``ns-export`` and ``ns-viewer`` call this room from many places and catch nothing.
    Python ends with the sentence and status 1 for any :class:`SystemExit`, so that none of these places needs a guard.
    For everyone else it is an ordinary exception.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = f"l2o_splat: {message}"


NO_RAYS = (
    "Single rays were asked for, and a rasterizer draws whole images: `ns-export gaussian-splat` exports the Gaussians "
    "(pointcloud, poisson, marching-cubes and the texture of tsdf need rays and normals, which they do not have), and "
    "videos need no --render-nearest-camera."
)
"""Why commands made for radiance fields do not work with Gaussians."""


class OptionError(PluginError):
    """An option of the command line has a value that cannot be used."""


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn expected errors of the library into their sentence; other errors keep their stack trace.

    Raises:
        SystemExit: For any :class:`L2OError`, and for a ValueError that this package itself has raised.
    """
    try:
        yield
    except L2OError as error:
        raise SystemExit(f"l2o_splat: {error}") from error
    except ValueError as error:
        if not raised_by_us(error):
            raise
        raise SystemExit(f"l2o_splat: {error}") from error


def raised_by_us(error: BaseException) -> bool:
    """Whether an error comes from a line of this package, not from a library or from nerfstudio."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("l2o_splat.")
