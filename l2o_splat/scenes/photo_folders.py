"""Folders of photographs and of their capture, checked before anything is imported that takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from l2o_splat.errors import L2OError


class PhotosError(L2OError, ValueError):
    """The photographs cannot be posed; the message says what was found, what is needed and what to do."""


def check_folders(photos: Path, out: Path) -> None:
    """Refuse photographs that are not there, and a capture that would overwrite something.

    Raises:
        PhotosError: If they cannot be used.
    """
    if not photos.is_dir():
        raise PhotosError(f"There is no folder {photos}; give the folder that holds the photographs.")
    if out.resolve().is_relative_to(photos.resolve()):
        raise PhotosError(f"{out} lies within {photos}; choose a folder for the capture outside the photographs.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PhotosError(f"{out} already holds something; choose a new folder for the capture or remove it first.")
    existing = next(parent for parent in out.resolve().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PhotosError(f"{out} cannot be created, as {existing} is no folder to write to; choose another place.")
