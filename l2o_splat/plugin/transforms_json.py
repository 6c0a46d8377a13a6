"""Checks of a ``transforms.json``: what nerfstudio reads must have the type that it needs, or a sentence names it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE

from l2o_splat.plugin.capture_checks import CaptureError

POSITIVE = ("fl_x", "fl_y", "w", "h")
"""Fields that every camera needs, for all frames at the top or in each frame."""
CENTRE = ("cx", "cy")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
FIXES_DISTORTION = ("k1", "k2", "k3", "p1", "p2", "distortion_params")
"""One of these at the top, and nerfstudio reads no distortion from the frames."""
NOT_A_ROTATION = 0.05
"""Largest deviation of a pose's axes from a rotation that is taken for rounding."""


def check_transforms(meta: Any, path: Path) -> None:
    """Refuse a parsed ``transforms.json`` with missing, empty or wrongly typed fields.

    Raises:
        CaptureError: The message names the file, the frame and the field.
    """
    if not isinstance(meta, dict):
        raise _fault(path, "", f"is a {type(meta).__name__}", "an object with the list 'frames'")
    frames = meta.get("frames")
    if not isinstance(frames, list):
        found = "is missing" if "frames" not in meta else f"is {_short(frames)}"
        raise _fault(path, "'frames'", found, "a list of posed images")
    if not frames:
        raise CaptureError(f"{path} lists no images; at least two posed images are needed.")
    _check_top(meta, path)
    for number, frame in enumerate(frames):
        _check_frame(meta, frame, path, number)
    _check_masks(frames, path)
    _check_poses(frames, path)


def _check_masks(frames: list[dict], path: Path) -> None:
    without = [frame["file_path"] for frame in frames if "mask_path" not in frame]
    if 0 < len(without) < len(frames):
        raise CaptureError(
            f"{path} gives {len(frames) - len(without)} of {len(frames)} frames a mask_path, the first without is "
            f"{without[0]}; give every frame one (all white if it leaves nothing out) or none."
        )


def _check_top(meta: dict, path: Path) -> None:
    _check_numbers(meta, POSITIVE, path, "", positive=True)
    _check_numbers(meta, (*CENTRE, *DISTORTION, "fisheye_crop_radius"), path, "")
    _check_numbers(meta, ("applied_scale",), path, "", positive=True)
    _check_distortion_params(meta, path, "")
    _check_matrix(meta, "applied_transform", (3, 4), path, "")
    _check_texts(meta, ("ply_file_path", "orientation_override"), path, "")
    if "camera_model" in meta:
        model = meta["camera_model"]
        if not isinstance(model, str) or model not in CAMERA_MODEL_TO_TYPE:
            raise _fault(path, "'camera_model'", f"is {_short(model)}", f"one of {', '.join(CAMERA_MODEL_TO_TYPE)}")
    for name in ("train_filenames", "val_filenames", "test_filenames"):
        names = meta.get(name, [])
        if not isinstance(names, list) or not all(isinstance(entry, str) for entry in names):
            raise _fault(path, f"'{name}'", f"is {_short(names)}", "a list of file names")


def _check_frame(meta: dict, frame: Any, path: Path, number: int) -> None:
    where = f" of frame {number}"
    if not isinstance(frame, dict):
        raise _fault(path, f"Frame {number}", f"is {_short(frame)}", "an object with 'file_path' and pose")
    if "file_path" not in frame or "transform_matrix" not in frame:
        missing = "file_path" if "file_path" not in frame else "transform_matrix"
        raise _fault(path, f"'{missing}'{where}", "is missing", "the image file and its pose")
    _check_texts(frame, ("file_path", "mask_path", "depth_file_path"), path, where)
    where = f" of {frame['file_path']}"
    own = [name for name in (*POSITIVE, *CENTRE) if name not in meta]
    for name in own:
        if name not in frame:
            raise _fault(path, f"'{name}'{where}", "is missing, and there is none for all images", "a number")
    _check_numbers(frame, [name for name in own if name in POSITIVE], path, where, positive=True)
    _check_numbers(frame, [name for name in own if name in CENTRE], path, where)
    if not any(name in meta for name in FIXES_DISTORTION):
        _check_numbers(frame, DISTORTION, path, where)
        _check_distortion_params(frame, path, where)
    _check_matrix(frame, "transform_matrix", (4, 4), path, where, finite=False)


def _check_poses(frames: list[dict], path: Path) -> None:
    poses = np.array([frame["transform_matrix"] for frame in frames], np.float64)
    names = [frame["file_path"] for frame in frames]
    broken = np.flatnonzero(~np.isfinite(poses).all(axis=(1, 2)))
    if len(broken):
        raise CaptureError(
            f"The pose of {names[broken[0]]} in {path} holds NaN or infinite numbers, {len(broken)} of {len(names)} "
            "cameras in all; every camera must be finite: repair it or take the image out."
        )
    axes = poses[:, :3, :3]
    deviation = np.abs(axes.transpose(0, 2, 1) @ axes - np.eye(3)).max(axis=(1, 2))
    skew = np.flatnonzero((deviation > NOT_A_ROTATION) | (np.linalg.det(axes) < 0))
    if len(skew):
        raise CaptureError(
            f"The pose of {names[skew[0]]} in {path} is no rotation and translation ({len(skew)} of {len(names)} "
            "cameras in all are not); 'transform_matrix' must hold unit axes, right-handed: repair the poses."
        )


def _check_numbers(values: dict, names: Iterable[str], path: Path, where: str, positive: bool = False) -> None:
    for name in names:
        if name not in values:
            continue
        number = _number(values[name])
        if number is None or not math.isfinite(number) or (positive and number <= 0):
            needed = "a positive number" if positive else "a finite number"
            raise _fault(path, f"'{name}'{where}", f"is {_short(values[name])}", needed)


def _check_distortion_params(values: dict, path: Path, where: str) -> None:
    if "distortion_params" not in values:
        return
    found = values["distortion_params"]
    numbers = [_number(entry) for entry in found] if isinstance(found, list) else []
    if len(numbers) != 6 or not all(number is not None and math.isfinite(number) for number in numbers):
        raise _fault(path, f"'distortion_params'{where}", f"is {_short(found)}", "six numbers k1, k2, k3, k4, p1, p2")


def _check_matrix(values: dict, name: str, shape: tuple[int, int], path: Path, where: str, finite: bool = True) -> None:
    if name not in values:
        return
    rows = values[name]
    entries = (
        [_number(entry) for row in rows if isinstance(row, list) for entry in row] if isinstance(rows, list) else []
    )
    shaped = (
        isinstance(rows, list) and [len(row) if isinstance(row, list) else 0 for row in rows] == [shape[1]] * shape[0]
    )
    if not shaped or any(entry is None or isinstance(entry, str) for entry in entries):
        raise _fault(path, f"'{name}'{where}", f"is {_short(rows)}", f"a matrix of {shape[0]} x {shape[1]} numbers")
    if finite and not all(map(math.isfinite, entries)):
        raise _fault(path, f"'{name}'{where}", "holds NaN or infinite numbers", "finite numbers")


def _check_texts(values: dict, names: Iterable[str], path: Path, where: str) -> None:
    for name in names:
        if name in values and not (isinstance(values[name], str) and values[name]):
            raise _fault(path, f"'{name}'{where}", f"is {_short(values[name])}", "text")


def _number(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON's integers have no limit.
        return math.inf


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fault(path: Path, what: str, found: str, needed: str) -> CaptureError:
    subject = f"{what} in {path}" if what else str(path)
    return CaptureError(f"{subject} {found}; {needed} is needed: repair the file, or write the capture anew.")
