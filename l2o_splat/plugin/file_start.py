"""The source ``file`` of ``--pipeline.initialization.source``: Gaussians that another program has made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.resplat import UNKNOWN
from l2o_splat.plugin.capture_frames import UnknownFrameError, place
from l2o_splat.plugin.errors import OptionError
from l2o_splat.plugin.photographs import Pinholes
from l2o_splat.scene import SceneStart
from l2o_splat.scene_file import SUFFIX, read_scene
from l2o_splat.sharing import SUFFIXES, cut_harmonics, read_splat, seen_in

if TYPE_CHECKING:
    from l2o_splat.plugin.starts import StartRequest

OPTION = "--pipeline.initialization.file"
FRAME_OPTION = "--pipeline.initialization.frame"


def check_file(file: Path | None, must_exist: bool) -> None:
    """Refuse a file that cannot hold a scene, before the capture is read.

    Raises:
        OptionError: If there is none, or its name tells no format.
    """
    kinds = f"one of {', '.join(SUFFIXES)}"
    if file is None:
        raise OptionError(f"--pipeline.initialization.source is file and {OPTION} names none; give it {kinds}.")
    if file.suffix not in SUFFIXES:
        raise OptionError(f"{OPTION} is {file}, whose name tells no format; give it {kinds}.")
    if must_exist and not file.is_file():
        raise OptionError(f"There is no file {file}, which {OPTION} names; give it {kinds}.")


def start_from_file(request: StartRequest) -> SceneStart:
    """The Gaussians of a file, in the frame of the cameras and with the SH degree of the run.

    Raises:
        OptionError: If the file cannot be read, no training photograph sees its scene, or its frame is not found.
    """
    path, model, data = request.options.file, request.model, request.datamanager
    start = _read(path)
    gaussians = _with_degree(start.gaussians, model.config.sh_degree, path)
    try:
        gaussians, frame = place(gaussians, request.options.frame, data, model, data.config.data)
    except UnknownFrameError as error:
        raise OptionError(
            f"{path} {error}; use a scene of this capture, in the coordinates of its poses, or name its frame with "
            f"{FRAME_OPTION} to start from it all the same."
        ) from error
    if not gaussians.all_finite():
        raise OptionError(f"{path} has numbers that float32 cannot hold in the frame {frame}; check {FRAME_OPTION}.")
    seen = _share_seen(gaussians, request)
    if not seen:
        raise OptionError(
            f"None of the {len(gaussians)} Gaussians of {path} lies in a training photograph, if its frame is {frame}; "
            f"use a scene of this capture, or name another frame with {FRAME_OPTION}."
        )
    CONSOLE.log(f"{path.name} is in the frame {frame}; {seen:.0%} of its Gaussians lie in training photographs.")
    device = request.background.device
    if start.features is None:
        return SceneStart(gaussians.to(device))
    cell = torch.full((len(gaussians),), UNKNOWN, device=device)
    return SceneStart(gaussians.to(device), start.features.to(device), cell=cell)


def _read(path: Path) -> SceneStart:
    try:
        start = read_scene(path) if path.suffix == SUFFIX else SceneStart(read_splat(path))
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror or error}); give {OPTION} another file.") from error
    except ValueError as error:
        raise OptionError(f"{OPTION}: {error}") from error
    counts = start.gaussians.count_non_finite()
    if not len(start.gaussians) or counts:
        raise OptionError(
            f"{path} holds {len(start.gaussians)} Gaussians, with NaN or infinite numbers in "
            f"{', '.join(counts) or 'none'}; at least one and finite numbers are needed."
        )
    return replace(start, features=None if start.features is None else start.features.float())


def _with_degree(gaussians: Gaussians, degree: int, path: Path) -> Gaussians:
    """The same with spherical harmonics up to a degree: zeros, or fewer of them."""
    if gaussians.sh_degree > degree:
        CONSOLE.log(
            f"{path.name} has SH degree {gaussians.sh_degree}, and the run {degree}: the bands above are left out, "
            "which changes colours."
        )
        return cut_harmonics(gaussians, degree)
    rest = gaussians.features_rest
    missing = (degree + 1) ** 2 - 1 - rest.shape[1]
    return replace(gaussians, features_rest=torch.cat([rest, rest.new_zeros(len(rest), missing, 3)], dim=1))


def _share_seen(gaussians: Gaussians, request: StartRequest) -> float:
    """Share of the Gaussians whose centre lies in a training photograph."""
    pinholes = Pinholes.of(request.datamanager.train_dataset.cameras.to("cpu"))
    cameras = (pinholes.cameras([view]) for view in range(len(pinholes.sizes)))
    return float((seen_in(gaussians.means.cpu(), cameras) > 0).float().mean())
