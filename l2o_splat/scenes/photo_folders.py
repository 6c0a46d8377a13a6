"""Folders of photographs, videos and their captures, checked before anything is imported that takes seconds."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from l2o_splat.errors import L2OError
from l2o_splat.scenes.heif import HEIF_SUFFIXES

_NO_PHOTOGRAPHS = {"__MACOSX", "@eaDir", "mask", "masks"}
"""Subfolders of these names are not searched."""
_PICTURE_SUFFIXES = (*HEIF_SUFFIXES, ".webp")
"""Those that :mod:`mimetypes` does not know on every system."""
_VIDEO_SUFFIXES = (".mkv", ".m4v", ".mts", ".m2ts", ".webm", ".insv")


class PhotosError(L2OError, ValueError):
    """The photographs cannot be posed; the message says what was found, what is needed and what to do."""


def check_folders(photos: Path, out: Path) -> None:
    """Refuse photographs that are not there, and a capture that would overwrite something.

    Raises:
        PhotosError: If they cannot be used.
    """
    if photos.is_file() and not is_video(photos):
        raise PhotosError(f"{photos} is no video; give a video file, or the folder that holds the photographs.")
    if not photos.exists():
        raise PhotosError(f"There is no folder {photos}; give the folder that holds the photographs, or a video file.")
    if photos.is_dir() and out.resolve().is_relative_to(photos.resolve()):
        raise PhotosError(f"{out} lies within {photos}; choose a folder for the capture outside the photographs.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PhotosError(f"{out} already holds something; choose a new folder for the capture or remove it first.")
    existing = next(parent for parent in out.resolve().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PhotosError(f"{out} cannot be created, as {existing} is no folder to write to; choose another place.")


def default_capture(photos: Path) -> Path:
    """Where the capture goes if nothing else is said: beside the photographs or the video."""
    photos = photos.resolve()
    return photos.with_name(f"{photos.stem if photos.is_file() else photos.name}-capture")


def find_photographs(folder: Path) -> list[Path]:
    """Paths of the image files in a folder and its subfolders, relative to it, sorted.

    Hidden files and folders, what systems leave behind (``__MACOSX``, ``@eaDir``), folders of masks and links to
    folders are left out; of several links to one file the first counts.
    """
    found: dict[Path, Path] = {}
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name not in _NO_PHOTOGRAPHS)
        for name in sorted(files):
            path = Path(directory) / name
            if is_picture(path) and path.is_file():
                found.setdefault(path.resolve(), path.relative_to(folder))
    return sorted(found.values())


def is_picture(path: Path) -> bool:
    """Whether a file has the name of a picture, and is not hidden."""
    return _is_kind(path, "image/", _PICTURE_SUFFIXES)


def is_video(path: Path) -> bool:
    """Whether a file has the name of a video, and is not hidden."""
    return _is_kind(path, "video/", _VIDEO_SUFFIXES)


def _is_kind(path: Path, kind: str, suffixes: tuple[str, ...]) -> bool:
    known = (mimetypes.guess_type(path.name)[0] or "").startswith(kind) or path.suffix.lower() in suffixes
    return known and not path.name.startswith(".")


def listed(names: list[str], most: int = 8) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
