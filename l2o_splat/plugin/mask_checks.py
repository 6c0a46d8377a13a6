"""Masks that ``transforms.json`` lists for some photographs only, which nerfstudio's parser would not name."""

from __future__ import annotations

import json
from pathlib import Path

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from l2o_splat.plugin.capture_checks import CaptureError


def check_masks_listed(config: DataParserConfig, data: Path) -> None:
    """Refuse a ``transforms.json`` in which some frames have a ``mask_path`` and others have none.

    Faults of other kinds are left to the parser.
    """
    if not isinstance(config, NerfstudioDataParserConfig):
        return
    path = data if data.suffix == ".json" else data / "transforms.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        return
    listed = [frame for frame in frames if "mask_path" in frame]
    for frame in listed:
        if not isinstance(frame["mask_path"], str) or not frame["mask_path"]:
            raise CaptureError(
                f"{path} gives {frame.get('file_path')} the mask_path {frame['mask_path']!r}; the path of a mask is "
                "needed: repair it, or take mask_path out of all frames."
            )
    if listed and len(listed) < len(frames):
        without = [frame for frame in frames if "mask_path" not in frame]
        raise CaptureError(
            f"{path} gives {len(listed)} of {len(frames)} frames a mask_path, the first without is "
            f"{without[0].get('file_path')}; give every frame one (all white where nothing is left out) or none."
        )
