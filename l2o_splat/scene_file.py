"""Scene files: Gaussians in full precision, with features if there are any, as ``.safetensors``.

The file holds one tensor per field under the name and with the shape that :class:`~l2o_splat.gaussians.Gaussians`
gives it: ``means [n, 3]``, ``scales [n, 3]`` (natural logarithms), ``quats [n, 4]`` (w, x, y, z), ``opacities [n, 1]``
(logits), ``features_dc [n, 3]``, ``features_rest [n, k, 3]``, and optionally ``features [n, f]``: what the model that
made the scene knows of each Gaussian. Other programs write it with ``safetensors.torch.save_file``; means in float64
keep coordinates that float32 cannot hold.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from l2o_splat.errors import L2OError
from l2o_splat.files import write_whole
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.scene import SceneStart

SUFFIX = ".safetensors"
FEATURES = "features"


class SceneFileError(L2OError, ValueError):
    """A scene file cannot be read or written; the message says why."""


def write_scene(path: str | Path, start: SceneStart | Gaussians) -> None:
    """Write Gaussians, and the features of a start, as they are; the file appears whole or not at all.

    Raises:
        OSError: If the file cannot be written.
        SceneFileError: If a number is NaN or infinite.
    """
    start = SceneStart(start) if isinstance(start, Gaussians) else start
    _check(f"{path} is not written: the scene holds", start)
    tensors = dict(start.gaussians.items()) | ({} if start.features is None else {FEATURES: start.features})
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(Path(path), lambda beside: save_file(tensors, beside))


def read_scene(path: str | Path) -> SceneStart:
    """Gaussians, and features if there are any, on the CPU; numbers have the precision of the file.

    Raises:
        OSError: If the file cannot be opened.
        SceneFileError: If it is damaged, lacks a field, has others or other shapes, or holds NaN or infinite numbers.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise SceneFileError(f"{path} cannot be read as a safetensors file ({error}); write it again.") from None
    missing, unknown = sorted(set(FIELDS) - tensors.keys()), sorted(tensors.keys() - {*FIELDS, FEATURES})
    if missing or unknown:
        raise SceneFileError(
            f"{path} is no scene: it lacks {missing} and has {unknown} besides; the tensors {', '.join(FIELDS)} and, "
            f"optionally, {FEATURES} are needed."
        )
    if whole := sorted(name for name, tensor in tensors.items() if not tensor.is_floating_point()):
        raise SceneFileError(f"{path} is no scene: {', '.join(whole)} hold no floating-point numbers.")
    features = tensors.pop(FEATURES, None)
    try:
        gaussians = Gaussians.from_mapping(tensors)
    except ValueError as error:
        raise SceneFileError(f"{path} is no scene: {error}") from None
    if features is not None and (features.ndim != 2 or len(features) != len(gaussians)):
        raise SceneFileError(
            f"{path} is no scene: {FEATURES} have shape {tuple(features.shape)}, and a row for each of its "
            f"{len(gaussians)} Gaussians is needed."
        )
    start = SceneStart(gaussians, features)
    _check(f"{path} holds", start)
    return start


def _check(beginning: str, start: SceneStart) -> None:
    counts = start.gaussians.count_non_finite()
    if start.features is not None and (count := int((~torch.isfinite(start.features)).sum())):
        counts[FEATURES] = count
    if counts:
        found = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise SceneFileError(f"{beginning} NaN or infinite numbers ({found}); remove these Gaussians first.")
