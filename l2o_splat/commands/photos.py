"""``l2o photos``: from a folder of photographs, or a video, to a capture with poses and points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from l2o_splat.scenes.photo_folders import check_folders, default_capture


@dataclass
class Photos:
    """Find poses and sparse points for photographs or a video, and write a capture that --data takes."""

    photos: tyro.conf.Positional[Path]
    """Folder of photographs, or a video file; they are only read. A folder `masks` in it or beside it holds masks."""
    out: Path | None = None
    """Folder of the capture, new or empty; PHOTOS-capture beside the photographs by default."""
    max_size: int = 1600
    """Longer photographs are reduced to this many pixels on the long side."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """exhaustive compares every pair; sequential each photograph with those that follow, and closes loops; auto is
    sequential for long videos."""
    matches: Literal["auto", "sift", "xfeat"] = "auto"
    """sift: COLMAP's own features. xfeat: those of a network, which match photographs that are far apart; needs
    'l2o_splat[xfeat]'. auto: sift, and xfeat beside it if it is installed and sift leaves out some of up to 40."""
    frames: int = 80
    """Frames to take from a video, the sharpest of as many windows of equal length."""

    def run(self) -> None:
        """Pose the photographs and say how to train on the capture.

        Raises:
            PhotosError: If the photographs cannot be posed.
            SystemExit: Status 130 after Ctrl-C.
        """
        out = self.out or default_capture(self.photos)
        check_folders(self.photos, out)
        # Only now: it imports rich.
        from l2o_splat.splat.display import Display
        from l2o_splat.splat.posing import pose_with_display, poses_part

        try:
            with Display([poses_part(self.photos, self.max_size, self.matching, self.frames)]) as display:
                pose_with_display(self.photos, out, display, self.max_size, self.matching, self.frames, self.matches)
        except KeyboardInterrupt:
            print(f"Stopped; {out} was not written.")
            raise SystemExit(130) from None
        print(f"Train on it with: ns-train l2o-adam-tuned --data {out}")
