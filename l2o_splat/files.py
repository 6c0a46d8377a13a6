"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, and move it there; what was there before stays if that fails.

    Args:
        path: The file; its folder must exist.
        write: Writes the content to the path that it gets, whose name ends like that of ``path``.

    Raises:
        OSError: If the file cannot be written (no such folder, no permission, a full disk).
    """
    beside = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path``, see :func:`write_whole`."""
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))
