"""``l2o photos``: from a folder of photographs to a capture with poses and points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from l2o_splat.scenes.photo_folders import check_folders


@dataclass
class Photos:
    """Find poses and sparse points for a folder of photographs, and write a capture that --data takes."""

    photos: tyro.conf.Positional[Path]
    """Folder of photographs of one size from one camera; they are only read."""
    out: Path | None = None
    """Folder of the capture, new or empty; PHOTOS-capture beside the photographs by default."""
    max_size: int = 1600
    """Longer photographs are reduced to this many pixels on the long side."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """exhaustive compares every pair; sequential each photograph with the next 10, for video frames."""

    def run(self) -> None:
        """Pose the photographs and say how to train on the capture.

        Raises:
            PhotosError: If the photographs cannot be posed.
        """
        photos = self.photos.resolve()
        out = self.out or photos.with_name(f"{photos.name}-capture")
        check_folders(self.photos, out)
        # Only now: it imports torch.
        from l2o_splat.scenes.photos import pose_photos

        pose_photos(self.photos, out, max_size=self.max_size, matching=self.matching)
        print(f"Train on it with: ns-train l2o-adam-tuned --data {out}")
