"""What a saved run holds, checked before nerfstudio's own code evaluates or exports it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.plugin.checkpoints import checkpoint_path, open_checkpoint, scene_of
from l2o_splat.plugin.errors import OptionError
from l2o_splat.plugin.saved_runs import read_config

LEAST_OPACITY_LOGIT = -5.5373
"""Gaussians below are not exported by nerfstudio: their opacity is under 1/255."""

Triple = tuple[float, float, float]


def check_run(path: Path) -> tuple[TrainerConfig, Gaussians]:
    """The config and the Gaussians of a run that nerfstudio can load.

    Raises:
        BrokenConfigError: From the ``config.yml``.
        BrokenCheckpointError: From the checkpoint.
    """
    config = read_config(path)
    checkpoint = checkpoint_path(config.get_checkpoint_dir(), config.load_step)
    return config, Gaussians.from_mapping(scene_of(open_checkpoint(checkpoint)["pipeline"], str(checkpoint)))


def check_output(path: Path, suffix: str | None = None) -> None:
    """Refuse a file or folder that cannot be written, before any work.

    Args:
        path: A file if there is a suffix, otherwise a folder, which is made.
        suffix: What the name of the file must end with.

    Raises:
        OptionError: The message names the path.
    """
    if suffix is not None and path.suffix != suffix:
        raise OptionError(f"The output {path} is not called *{suffix}; name a file that ends with {suffix}.")
    folder = path if suffix is None else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder} cannot be made ({error.strerror}); choose another output.") from error
    if suffix is not None and path.is_dir():
        raise OptionError(f"The output {path} is a folder; name a file that ends with {suffix}.")


@dataclass(frozen=True)
class Crop:
    """A box in scene units, outside of which nothing is exported."""

    center: Triple
    rotation: Triple
    """Roll, pitch, yaw, radians."""
    scale: Triple
    """Sides."""

    @classmethod
    def from_options(cls, center: Triple | None, rotation: Triple | None, scale: Triple | None) -> Crop | None:
        """The box of three options, None if there is none.

        Raises:
            OptionError: If some of them are missing, or are no numbers of a box.
        """
        given = {"--obb-center": center, "--obb-rotation": rotation, "--obb-scale": scale}
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == 3:
            return None
        if missing:
            raise OptionError(
                f"{' and '.join(missing)} missing; a crop box needs all of {', '.join(given)}, and without one of them "
                "nothing would be cropped."
            )
        for name, value in given.items():
            if not all(map(math.isfinite, value)) or (name == "--obb-scale" and min(value) <= 0):
                needed = "three positive numbers are" if name == "--obb-scale" else "three finite numbers are"
                raise OptionError(f"{name} is {' '.join(map(str, value))}; {needed} needed.")
        return cls(center, rotation, scale)

    def within(self, means: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Which centres nerfstudio's exporter keeps."""
        box = OrientedBox.from_params(*(tuple(map(float, part)) for part in (self.center, self.rotation, self.scale)))
        return box.within(means)


def check_something_is_exported(gaussians: Gaussians, crop: Crop | None) -> None:
    """Refuse an export of nothing.

    Raises:
        OptionError: If the crop box holds no Gaussian, or none is finite and opaque enough to be drawn.
    """
    finite = torch.isfinite(gaussians.pack()).all(dim=1)
    drawn = finite & (gaussians.opacities[:, 0] >= LEAST_OPACITY_LOGIT)
    if not drawn.any():
        raise OptionError(
            f"None of the {len(drawn)} Gaussians would be exported: {int((~finite).sum())} hold NaN or infinite "
            "numbers, and the others are transparent; train again."
        )
    if crop is not None and not (drawn & crop.within(gaussians.means)).any():
        low, high = (
            " ".join(
                f"{value:.2f}" for value in torch.quantile(gaussians.means[drawn][:100_000], share, dim=0).tolist()
            )
            for share in (0.05, 0.95)
        )
        raise OptionError(
            f"The crop box around {' '.join(map(str, crop.center))} with sides {' '.join(map(str, crop.scale))} holds "
            f"none of the {int(drawn.sum())} Gaussians; nine tenths of them lie between {low} and {high}: move or "
            "widen the box."
        )
