"""Masks beside photographs: where they lie, which belongs to which photograph, and how they are turned.

They lie in a folder ``masks`` in the folder of the photographs, or beside that folder, with the same subfolders. A mask
is named as COLMAP wants it (``IMG_1.JPG.png`` for ``IMG_1.JPG``) or as nerfstudio writes it (``IMG_1.png``). White is
kept, black is left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from l2o_splat.scenes.photo_folders import PhotosError, is_picture
from l2o_splat.scenes.pixels import PhotographHeader, PixelsError, read_mask, turned_upright

_FOLDER_NAMES = ("masks", "mask")


@dataclass(frozen=True)
class MaskFiles:
    """The masks of one folder of photographs; empty where there are none."""

    folder: Path | None = None
    """The folder of masks."""
    _files: dict[str, Path] = field(default_factory=dict)
    """By the name of the photograph, with and without its suffix, in lower case."""

    @classmethod
    def beside(cls, photos: Path) -> MaskFiles:
        """The masks in the folder of the photographs, or else beside that folder."""
        places = [parent / name for parent in (photos, photos.resolve().parent) for name in _FOLDER_NAMES]
        folder = next((place for place in places if place.is_dir() and place.resolve() != photos.resolve()), None)
        if folder is None:
            return cls()
        files: dict[str, Path] = {}
        for directory, _, names in os.walk(folder):
            for name in sorted(names):
                path = Path(directory) / name
                if is_picture(path):
                    files.setdefault(path.relative_to(folder).with_suffix("").as_posix().casefold(), path)
        return cls(folder, files) if files else cls()

    def __bool__(self) -> bool:
        return bool(self._files)

    def read(self, photograph: Path, header: PhotographHeader) -> Bool[np.ndarray, "h w"] | None:
        """Which pixels of the upright photograph are kept; None if it has no mask.

        Args:
            photograph: Path relative to the folder of the photographs.
            header: What its file says.

        Raises:
            PhotosError: The mask cannot be read, or has another size than the photograph.
        """
        full, stem = (path.as_posix().casefold() for path in (photograph, photograph.with_suffix("")))
        path = self._files.get(full) or self._files.get(stem)
        if path is None:
            return None
        try:
            kept = read_mask(path)
        except PixelsError as error:
            raise PhotosError(str(error)) from error
        size = kept.shape[::-1]
        if size != header.upright_size and size == header.size:
            # Made of the pixels as stored, without the orientation of the photograph.
            kept = turned_upright(kept, header.orientation)
        elif size != header.upright_size:
            raise PhotosError(
                f"The mask {path} is {size[0]} x {size[1]} pixels, its photograph {photograph} "
                f"{header.upright_size[0]} x {header.upright_size[1]}; bring both to one size, or move the mask away."
            )
        return kept
