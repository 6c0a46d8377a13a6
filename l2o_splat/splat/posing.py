"""The poses of photographs as one part of the display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from l2o_splat.scenes.photo_folders import find_photographs
from l2o_splat.scenes.posing_phases import PHASE_TITLES
from l2o_splat.splat.display import Display
from l2o_splat.splat.expectation import posed_share, posing_seconds

if TYPE_CHECKING:
    from l2o_splat.scenes.photos import Matching, PosedCapture

POSES = "poses"


def poses_part(photos: Path, matching: Matching, frames: int) -> tuple[str, float]:
    """The part for a display: its name, and the seconds that it is expected to take."""
    count = frames if photos.is_file() else len(find_photographs(photos))
    return POSES, posing_seconds(count, matching == "sequential")


def pose_with_display(
    photos: Path, out: Path, display: Display, max_size: int, matching: Matching, frames: int
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
        frames=frames,
        progress=lambda phase, share: display.update(POSES, posed_share(phase, share), PHASE_TITLES[phase].lower()),
        report=display.say,
    )
    display.end(POSES, f"{posed.registered} of {posed.of} photographs, {posed.points:,} points")
    return posed
