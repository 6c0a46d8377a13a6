"""The frames of a capture and the views that ``l2o bench`` would train on, for programs that write a changed copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from l2o_splat.scenes.split import split_views


def posed_frames(capture: Path, views: int | None) -> tuple[dict[str, Any], list[dict[str, Any]], list[int], list[int]]:
    """Content of ``transforms.json``, its frames in the order of their names, training views and held-out views.

    Args:
        capture: Folder with ``transforms.json``.
        views: Training views, spread as far as possible; None for all that are not held out.

    Raises:
        SplitError: If there are too few frames.
    """
    meta = json.loads((capture / "transforms.json").read_text())
    frames = sorted(meta["frames"], key=lambda frame: frame["file_path"])
    centres = np.array([np.array(frame["transform_matrix"])[:3, 3] for frame in frames])
    return meta, frames, *split_views(centres, views or "all")
