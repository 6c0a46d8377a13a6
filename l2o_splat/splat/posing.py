"""The poses of photographs as one part of the display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from l2o_splat.scenes.photo_folders import find_photographs
from l2o_splat.scenes.posing_phases import PHASE_TITLES
from l2o_splat.splat.display import Display
from l2o_splat.splat.expectation import posed_share, posing_seconds

if TYPE_CHECKING:
    from l2o_splat.scenes.photos import MatchesChoice, Matching, PosedCapture

POSES = "poses"


def poses_part(photos: Path, max_size: int, matching: Matching, frames: int) -> tuple[str, float]:
    """The part for a display: its name, and the seconds that it is expected to take."""
    found = [] if photos.is_file() else find_photographs(photos)
    size = _size(photos / found[0]) if found else (16, 9)
    reduced = min(max_size / max(size), 1.0) if found else max_size / 16
    megapixels = size[0] * size[1] * reduced**2 / 1e6
    return POSES, posing_seconds(len(found) or frames, megapixels, matching == "sequential")


def _size(photograph: Path) -> tuple[int, int]:
    """Width and height, as far as a header tells; what cannot be read is refused later, with its name."""
    from PIL import Image

    try:
        with Image.open(photograph) as picture:
            return picture.size
    except (OSError, ValueError):
        return 16, 9


def pose_with_display(
    photos: Path,
    out: Path,
    display: Display,
    max_size: int,
    matching: Matching,
    frames: int,
    matches: MatchesChoice = "auto",
) -> PosedCapture:
    """:func:`l2o_splat.scenes.photos.pose_photos`, shown as the part of :func:`poses_part`.

    Raises:
        PhotosError: As there.
    """
    # Only now: it imports torch.
    from l2o_splat.scenes.photos import pose_photos

    display.begin(POSES)
    posed = pose_photos(
        photos,
        out,
        max_size=max_size,
        matching=matching,
        matches=matches,
        frames=frames,
        progress=lambda phase, share: display.update(POSES, posed_share(phase, share), PHASE_TITLES[phase].lower()),
        report=display.say,
    )
    display.end(POSES, f"{posed.registered} of {posed.of} photographs, {posed.points:,} points")
    return posed
