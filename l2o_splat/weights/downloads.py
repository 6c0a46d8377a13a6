"""Downloads of torch.hub, without its own announcements."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Iterator

TIMEOUT_SECONDS = 20.0


@contextlib.contextmanager
def quiet_download() -> Iterator[None]:
    """End a download that stands still; torch.hub announces it, but the outcome is what matters."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
