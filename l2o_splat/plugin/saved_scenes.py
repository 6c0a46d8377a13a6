"""What a saved run holds, checked before nerfstudio's own code evaluates or exports it."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.plugin.checkpoints import checkpoint_path, open_checkpoint, scene_of
from l2o_splat.plugin.errors import OptionError
from l2o_splat.plugin.export_options import Crop
from l2o_splat.plugin.model import L2OModel
from l2o_splat.plugin.saved_runs import read_config

LEAST_OPACITY_LOGIT = -5.5373
"""Gaussians below are not exported by nerfstudio: their opacity is under 1/255."""


def check_run(path: Path) -> tuple[TrainerConfig, Gaussians]:
    """The config and the Gaussians of a run that nerfstudio can load.

    Raises:
        BrokenConfigError: From the ``config.yml``.
        BrokenCheckpointError: From the checkpoint.
    """
    config = read_config(path)
    checkpoint = checkpoint_path(config.get_checkpoint_dir(), config.load_step)
    return config, Gaussians.from_mapping(scene_of(open_checkpoint(checkpoint)["pipeline"], str(checkpoint)))


def can_be_drawn(gaussians: Gaussians) -> Bool[Tensor, " n"]:
    """Which Gaussians are finite and not transparent, as nerfstudio's exporter keeps them."""
    return torch.isfinite(gaussians.pack()).all(dim=1) & (gaussians.opacities[:, 0] >= LEAST_OPACITY_LOGIT)


def is_ours(config: TrainerConfig, plain: bool) -> bool:
    """Whether a run is of one of this package's methods, so that its Gaussians are drawn as :mod:`~.rendering` does.

    Args:
        plain: Whether only what ns-export does is asked for, which works for other methods as well.

    Raises:
        OptionError: If it is of another method and more is asked for.
    """
    ours = issubclass(config.pipeline.model._target, L2OModel)
    if not ours and not plain:
        raise OptionError(
            f"The run is of the method {config.method_name}, which this package only exports as ns-export does; leave "
            "out --format, --up, --sh-degree, --least-opacity and --seen-in."
        )
    return ours


def check_something_is_exported(gaussians: Gaussians, crop: Crop | None) -> None:
    """Refuse an export of nothing.

    Raises:
        OptionError: If the crop box holds no Gaussian, or none is finite and opaque enough to be drawn.
    """
    finite = torch.isfinite(gaussians.pack()).all(dim=1)
    drawn = can_be_drawn(gaussians)
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
