"""The capture that a checkpoint belongs to, and the way back into its frame when the capture has changed.

nerfstudio turns, centres and scales a capture by all its cameras, so that one photograph more moves the frame. The
frame of the checkpoint stays: cameras and points of the changed capture are brought into it, and the scene and what the
rule remembers go on as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.frame import Frame
from l2o_splat.plugin.capture_checks import CaptureError

SAME_FRAME = 1e-5
"""Frames that differ by less (radians, share of the cameras' reach) are one, computed on two machines."""
EXACT = 1e-4
"""Largest deviation of a camera, in the same units, that is left when one similarity explains all of them."""
NAMED = 3
"""Photographs that a message names at most."""


def photograph_names(paths: Sequence[Path], data: Path) -> list[str]:
    """Paths of photographs relative to their capture, the same for downscaled ones.

    Args:
        paths: The image files.
        data: Folder or file of the capture; names of those that lie elsewhere are folder and file alone.
    """
    root = (data.parent if data.suffix == ".json" else data).absolute()
    names = []
    for path in paths:
        inside = data != Path() and path.absolute().is_relative_to(root)
        name = path.absolute().relative_to(root).as_posix() if inside else "/".join(path.parts[-2:])
        names.append(re.sub(r"^images_\d+/", "images/", name))
    return names


@dataclass(frozen=True)
class SavedCapture:
    """What a checkpoint knows of its capture, as plain data in :meth:`state`."""

    names: list[str]
    """Photographs, held-out ones included, see :func:`photograph_names`."""
    poses: Float[Tensor, "v 3 4"]
    """Their camera-to-world matrices in the frame of the scene, OpenGL axes, float64."""
    training: list[str]
    """Photographs that were trained on."""
    centres: Float[Tensor, "t 3"]
    """Centres of the training cameras that the rule was bound with, scene units."""
    rescaled_by: float
    """Scene units per unit of the dataset that the rule was bound with."""
    transform: Float[Tensor, "3 4"]
    """The dataparser's transform, float64, from the capture's original coordinates to the scene's axes..."""
    scale: float
    """...and scale, which is applied after it."""
    offset: list[float] = field(default_factory=list)
    """What was subtracted from large coordinates in float64; empty for others. The transform includes it."""

    def state(self) -> dict[str, Any]:
        """The same as tensors, numbers and lists."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> SavedCapture | None:
        """The saved capture; None if the checkpoint is of a version that saved none."""
        return cls(**state) if state else None


def frame_of_saved(saved: SavedCapture, present: SavedCapture) -> Frame:
    """The frame of a checkpoint (local) in that of the capture as it is read now (world).

    Raises:
        CaptureError: If it is another capture, or its poses have changed by more than one similarity.
    """
    index = {name: row for row, name in enumerate(present.names)}
    common = [(row, index[name]) for row, name in enumerate(saved.names) if name in index]
    old, new = saved.poses[[row for row, _ in common]].double(), present.poses[[row for _, row in common]].double()
    names = [saved.names[row] for row, _ in common]
    if not common:
        raise CaptureError(
            f"The checkpoint belongs to another capture: none of its {len(saved.names)} photographs "
            f"({_some(saved.names)}) is among the {len(present.names)} of this one ({_some(present.names)}); give the "
            "capture it was trained on, or train without a checkpoint."
        )
    if torch.equal(old, new):
        return Frame()
    old_offsets, new_offsets = (_offsets(poses) for poses in (old, new))
    reach = float(new_offsets.norm(dim=1).max())
    if float(old_offsets.norm(dim=1).max()) == 0 or reach == 0:
        raise CaptureError(
            f"Only {len(common)} of the {len(saved.names)} photographs that the checkpoint was trained with "
            f"({_some(names)}) are in this capture, in one place; at least two cameras in two places are needed to "
            "find its frame: give the capture it was trained on, or train without a checkpoint."
        )
    rotation, scale, origin = _similarity(new, old)
    turned = new_offsets @ rotation
    in_axes = (new[:, :, :3] - rotation @ old[:, :, :3]).flatten(1).norm(dim=1)
    in_place = (scale * turned - old_offsets).norm(dim=1) / max(scale, 1e-30) / reach
    deviation = torch.maximum(in_axes, in_place)
    if scale <= 0 or float(deviation.max()) > EXACT + 1e-6 * float(new[:, :, 3].abs().max()) / reach:
        worst = int(deviation.argmax())
        raise CaptureError(
            f"The checkpoint belongs to other poses: {len(common)} of its {len(saved.names)} photographs are in this "
            "capture, but no one rotation, shift and scale leads from their saved poses to those of now "
            f"({names[worst]} is off by {100 * float(deviation[worst]):.2g} % of the cameras' reach); give the capture "
            "as it was, with photographs added or removed alone, or train without a checkpoint."
        )
    turn = float((rotation - torch.eye(3, dtype=torch.float64)).norm())
    if max(turn, abs(scale - 1), float(origin.norm()) / reach) < SAME_FRAME:
        return Frame()
    return Frame(rotation, origin, scale)


def frame_between(world: Float[Tensor, "v 3 4"], local: Float[Tensor, "v 3 4"]) -> Frame:
    """The frame that brings cameras to other poses of theirs as well as one similarity can.

    The axes of the cameras say how it turns; their centres then say its scale and shift, by least squares (Umeyama,
    PAMI 13(4), 1991). So there is an answer for cameras on a line, and for a single one.

    Args:
        world: Camera-to-world matrices, float64.
        local: The same cameras in the frame.

    Raises:
        ValueError: If the centres are mirrored.
    """
    rotation, scale, origin = _similarity(world, local)
    return Frame(rotation, origin, scale)


def _similarity(world: Float[Tensor, "v 3 4"], local: Float[Tensor, "v 3 4"]) -> tuple[Tensor, float, Tensor]:
    """Rotation, scale and origin of :func:`frame_between`."""
    # The local axes in those of the world: the rotation nearest to what all cameras say.
    left, _, right = torch.linalg.svd((world[:, :, :3] @ local[:, :, :3].mT).sum(dim=0))
    sign = torch.linalg.det(left @ right).sign()
    rotation = left @ torch.diag(torch.stack([sign.new_ones(()), sign.new_ones(()), sign])) @ right
    turned, local_offsets = _offsets(world) @ rotation, _offsets(local)
    spread = float(turned.square().sum())
    scale = float((local_offsets * turned).sum()) / spread if spread > 0 else 1.0
    origin = world[:, :, 3].mean(dim=0) - rotation @ local[:, :, 3].mean(dim=0) / max(scale, 1e-30)
    return rotation, scale, origin


def _offsets(poses: Float[Tensor, "v 3 4"]) -> Float[Tensor, "v 3"]:
    """Centres of cameras from the mean of all."""
    return poses[:, :, 3] - poses[:, :, 3].mean(dim=0)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def describe_change(saved: SavedCapture, present: SavedCapture) -> str:
    """How a capture has changed since a checkpoint, in words."""
    before, now = set(saved.names), set(present.names)
    changes = [
        f"{len(names)} photographs {what}" for names, what in ((now - before, "added"), (before - now, "gone")) if names
    ]
    return " and ".join(changes) or "another frame"


def poses_to_local(frame: Frame, poses: Float[Tensor, "v 3 4"]) -> Float[Tensor, "v 3 4"]:
    """Camera-to-world matrices in a frame, in the dtype and on the device that they have."""
    moved = poses.double().cpu()
    axes, centres = moved[:, :, :3], frame.points_to_local(moved[:, :, 3])
    if frame.rotation is not None:
        axes = frame.rotation.T @ axes
    return torch.cat([axes, centres[:, :, None]], dim=2).to(poses)


def transform_to_local(
    frame: Frame, transform: Float[Tensor, "3 4"], scale: float
) -> tuple[Float[Tensor, "3 4"], float]:
    """A dataparser's transform and scale as those that lead into a frame."""
    moved = transform.double()
    moved = torch.cat([moved[:, :3], moved[:, 3:] - frame.origin[:, None] / scale], dim=1)
    if frame.rotation is not None:
        moved = frame.rotation.T @ moved
    return moved.to(transform), scale * frame.scale
