"""Files that appear whole or not at all, and folders that one process writes to at a time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from l2o_splat.system import lock


def cache_folder() -> Path:
    """The folder of everything that can be made or fetched again: ``L2O_SPLAT_CACHE``, else in the user's caches."""
    if chosen := os.environ.get("L2O_SPLAT_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "l2o_splat"


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
        # Windows can only flush what is open for writing.
        with beside.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path``, see :func:`write_whole`."""
    write_whole(path, lambda beside: beside.write_text(text, encoding="utf-8"))


@contextmanager
def held_folder(folder: Path, refusal: Exception) -> Iterator[None]:
    """Hold a folder, which is made if need be, so that no second process that asks for it writes there.

    Raises:
        Exception: ``refusal``, if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        if not lock(file.fileno()):
            raise refusal
        yield
