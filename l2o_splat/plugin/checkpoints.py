"""Opening the checkpoint of a run, with a sentence for folders and files that hold none."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from l2o_splat.gaussians import FIELDS
from l2o_splat.plugin.errors import PluginError

_NAME = re.compile(r"step-(\d{9,})\.ckpt")
_PREFIXES = ("_model.gauss_params.", "module._model.gauss_params.")


class BrokenCheckpointError(PluginError):
    """A checkpoint is missing, cut short, or holds no scene."""


def checkpoint_path(folder: Path, step: int | None = None) -> Path:
    """The checkpoint that nerfstudio takes from a folder: that of a step, or the last one.

    Raises:
        BrokenCheckpointError: If there is none, or nerfstudio would stumble over another file in the folder.
    """
    if not folder.is_dir():
        raise BrokenCheckpointError(
            f"There is no folder {folder.absolute()} with checkpoints; relative paths start at the folder in which the "
            "run was started."
        )
    if step is not None:
        path = folder / f"step-{step:09d}.ckpt"
        if not path.is_file():
            raise BrokenCheckpointError(f"{path} does not exist; {_listed(folder)}")
        return path
    strange = [name for name in sorted(os.listdir(folder)) if _NAME.fullmatch(name) is None]
    saved = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    if not saved:
        raise BrokenCheckpointError(
            f"{folder} holds no checkpoint (step-NNNNNNNNN.ckpt); train first, or name another."
        )
    if strange:
        raise BrokenCheckpointError(
            f"{folder} holds {', '.join(strange[:3])}, and nerfstudio takes every file there for a checkpoint; move it "
            "elsewhere."
        )
    return saved[-1]


def open_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, read from the file as it is needed.

    Raises:
        BrokenCheckpointError: If the file is missing or cut short, holds code, or holds no scene.
    """
    if not path.is_file():
        raise BrokenCheckpointError(f"The checkpoint {path} does not exist; {_listed(path.parent)}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        # torch's own message recommends to load the file unsafely.
        others = [other.name for other in sorted(path.parent.glob("step-*.ckpt")) if other != path]
        remedy = f"move it away, and {others[-1]} is taken" if others else "copy it again, or train again"
        raise BrokenCheckpointError(
            f"{path} cannot be opened as a checkpoint ({type(error).__name__}; {path.stat().st_size} bytes): it is cut "
            f"short, or of another program; {remedy}."
        ) from error
    if not isinstance(state, dict) or not {"pipeline", "step"} <= state.keys():
        raise BrokenCheckpointError(f"{path} is no checkpoint of a run; name one that ns-train has written.")
    scene_of(state["pipeline"], str(path))
    return state


def scene_of(state: dict[str, Any], path: str = "The checkpoint") -> dict[str, torch.Tensor]:
    """The six tensors of the Gaussians, by field.

    Args:
        state: Of a pipeline, as nerfstudio saves it.
        path: For messages.

    Raises:
        BrokenCheckpointError: If some are missing, or there are no Gaussians.
    """
    tensors = {field: state.get(prefix + field) for field in FIELDS for prefix in _PREFIXES if prefix + field in state}
    missing = [field for field in FIELDS if not isinstance(tensors.get(field), torch.Tensor)]
    if missing:
        raise BrokenCheckpointError(
            f"{path} holds no Gaussians ({', '.join(missing)} missing); it may belong to another method."
        )
    if len({len(tensor) for tensor in tensors.values()}) > 1 or not len(tensors["means"]):
        counts = ", ".join(f"{len(tensor)} {field}" for field, tensor in tensors.items())
        raise BrokenCheckpointError(
            f"{path} holds {counts}; as many of each, and at least one, are needed: train again."
        )
    return tensors


def _listed(folder: Path) -> str:
    saved = sorted(path.name for path in folder.glob("step-*.ckpt")) if folder.is_dir() else []
    return f"the folder holds {', '.join(saved[-3:])}." if saved else "the folder holds no checkpoint."
