"""Pictures of held-out views for the report: photograph, start, end and error map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

MAX_VIEWS = 3
"""Held-out views shown per scene."""
MAX_WIDTH = 640
"""Width of a picture in the report, pixels; wider ones are scaled down."""
JPEG_QUALITY = 85

ERROR_AT_TOP = 0.25
"""Absolute error (mean over channels, images in 0..1) that gets the brightest colour."""

# From black through violet and orange to pale yellow; brightness rises evenly, so that it reads in grey as well.
ERROR_COLOURS = np.array(
    [
        [0, 0, 4],
        [40, 11, 84],
        [101, 21, 110],
        [159, 42, 99],
        [212, 72, 66],
        [245, 125, 21],
        [250, 193, 39],
        [252, 255, 164],
    ]
)


Pictures = dict[str, dict[str, dict[str, dict[str, Path]]]]
"""File of each method by scene, view and kind (``photograph``, ``start``, ``end``, ``error``)."""


@dataclass(frozen=True)
class HeldOutView:
    """A held-out photograph and the scene from the same camera."""

    name: str
    """File name of the photograph."""
    photograph: UInt8[np.ndarray, "h w 3"]
    drawn: UInt8[np.ndarray, "h w 3"]
    psnr: float | None
    """dB; None if every pixel is masked."""


def shown_views(count: int) -> list[int]:
    """Choose indices of held-out views to show, spread over all ``count``."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(MAX_VIEWS, count))})


def error_map(
    rendered: Float[np.ndarray, "h w 3"], photograph: Float[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour the absolute error, mean over channels: 0 is black, ``ERROR_AT_TOP`` and more pale yellow."""
    error = np.abs(rendered - photograph).mean(axis=-1) / ERROR_AT_TOP
    position = error.clip(0, 1) * (len(ERROR_COLOURS) - 1)
    channels = [np.interp(position, np.arange(len(ERROR_COLOURS)), column) for column in ERROR_COLOURS.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def save_picture(path: Path, image: np.ndarray) -> None:
    """Save ``[h w 3]`` (0..1, or bytes) as a JPEG."""
    if image.dtype != np.uint8:
        image = (image.clip(0, 1) * 255).round().astype(np.uint8)
    picture = Image.fromarray(image)
    if picture.width > MAX_WIDTH:
        picture = picture.resize((MAX_WIDTH, round(picture.height * MAX_WIDTH / picture.width)), Image.Resampling.BOX)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=JPEG_QUALITY)


def picture_path(folder: Path, view: str, kind: str) -> Path:
    """Return the path of a picture in the folder of its run."""
    return folder / "pictures" / f"{view}.{kind}.jpg"


def find_pictures(runs: Iterable[tuple[str, str, Path]]) -> Pictures:
    """Find the pictures of finished runs.

    Args:
        runs: Scene, method and folder of each run.
    """
    found: Pictures = {}
    for scene, method, folder in runs:
        for path in sorted((folder / "pictures").glob("*.end.jpg")):
            view = path.name.removesuffix(".end.jpg")
            paths = {kind: picture_path(folder, view, kind) for kind in ("photograph", "start", "end", "error")}
            if not all(one.exists() for one in paths.values()):
                continue  # The run began with --no-images and was resumed without it.
            kinds = found.setdefault(scene, {}).setdefault(view, {})
            for kind, one in paths.items():
                kinds.setdefault(kind, {})[method] = one
    return found
