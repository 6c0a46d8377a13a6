"""A copy of a capture whose training poses are off: ``python benchmarks/disturb_poses.py CAPTURE COPY --help``.

Each training view is turned about a random axis and shifted in a random direction; the views that the protocol of
``l2o bench`` holds out, and the points, stay as they are. The copy names the split, so that ``l2o bench --views own``
measures on it. Photographs are linked, not copied.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.spatial.transform import Rotation

if not __package__:  # Run as a program.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.posed_frames import posed_frames
from l2o_splat.scenes.capture import read_capture


@dataclass
class Options:
    """What to disturb, and how much."""

    capture: tyro.conf.Positional[Path]
    """Folder with ``transforms.json`` and sparse points."""
    copy: tyro.conf.Positional[Path]
    """Folder to write."""
    views: int | None = None
    """Training views, spread as far as possible; None for all that are not held out."""
    degrees: float = 0.5
    percent: float = 1.0
    """Shift, in percent of the median depth of the points that the view shows."""
    seed: int = 0


def disturb(options: Options) -> None:
    """Write the copy."""
    capture, random = read_capture(options.capture), np.random.default_rng(options.seed)
    cameras = capture.views.cameras
    pixels, depths = cameras.project(capture.points.xyz)
    inside = cameras.inside(pixels, depths)
    meta, frames, training, held_out = posed_frames(options.capture, options.views)
    for view in training:
        pose = np.array(frames[view]["transform_matrix"])
        turn, shift = random.normal(size=(2, 3))
        turn = Rotation.from_rotvec(np.radians(options.degrees) * turn / np.linalg.norm(turn))
        distance = float(depths[view][inside[view]].median())
        pose[:3, :3] = turn.as_matrix() @ pose[:3, :3]
        pose[:3, 3] += options.percent / 100 * distance * shift / np.linalg.norm(shift)
        frames[view]["transform_matrix"] = pose.tolist()
    meta["frames"] = [frames[view] for view in sorted([*training, *held_out])]
    meta["train_filenames"] = [frames[view]["file_path"] for view in training]
    for split in ("val_filenames", "test_filenames"):
        meta[split] = [frames[view]["file_path"] for view in held_out]
    options.copy.mkdir(parents=True)
    (options.copy / "transforms.json").write_text(json.dumps(meta))
    for name in ("images", meta["ply_file_path"]):
        (options.copy / name).symlink_to((options.capture / name).absolute())


if __name__ == "__main__":
    disturb(tyro.cli(Options, description=__doc__))
