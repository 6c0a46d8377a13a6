"""What distinguishes one ReSplat network from another: widths, read from its tensors, and behaviour, which is not.

Options are grouped by what they are for: the released weights (arXiv 2510.08575), or ours (``resplat-mini``), whose
defaults leave the original's behaviour unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PARAMETER_WIDTH = 59
"""Numbers per Gaussian that the update reads and changes."""
NUMBERS_PER_GAUSSIAN = 58
"""Outputs of the Gaussian head per Gaussian: rotation 4, scale 3, opacity 1, offset 2, SH 48."""
VARIANTS = {
    "mini": (48, 4, 3, (0, 1, 2, 3)),
    "vits": (384, 12, 6, (2, 5, 8, 11)),
    "vitb": (768, 12, 12, (2, 5, 8, 11)),
    "vitl": (1024, 24, 16, (4, 11, 17, 23)),
}
"""Image transformers: width, blocks, heads, and the blocks whose outputs are used (from 0). Only "mini" is ours."""
DECODER_WIDTHS = {
    "mini": ((24, 24, 32, 48), 16),
    "vits": ((48, 96, 192, 384), 32),
    "vitb": ((96, 192, 384, 768), 48),
    "vitl": ((128, 256, 512, 1024), 64),
}
"""Depth decoder for each image transformer: channels of the four levels, and of the fusion."""
RELEASED_CNN_WIDTHS = (64, 96, 128)
"""Channels of the three maps of the image encoder in all released weights, fine to coarse."""
RELEASED_ERROR_WIDTHS = (64, 128)
"""Channels of the error features in all released weights: of the first two maps, and of the third."""


@dataclass(frozen=True)
class UpdateShape:
    """Widths of the recurrent update; the defaults are those of all released weights, and only ours differ."""

    state_width: int = 512
    attention_width: int = 64
    num_blocks: int = 4
    num_error_blocks: int = 1
    """Global attention blocks that spread the error over the views."""
    error_widths: tuple[int, int] = RELEASED_ERROR_WIDTHS
    """Channels of the features in which renders and photographs are compared: of the first two maps, and of the third.
    """
    front_error: bool = False
    """Ours. Whether the update sees for each Gaussian, besides the error of its own cell, the mean error of the cells
    in which it is in front."""

    @property
    def error_width(self) -> int:
        """Channels of the error of a cell."""
        return 2 * self.error_widths[0] + self.error_widths[1]

    @property
    def shown_width(self) -> int:
        """Channels of the error that the update sees for each Gaussian."""
        return self.error_width * (2 if self.front_error else 1)


@dataclass(frozen=True)
class ReSplatShape:
    """All widths of the networks; the defaults are those of the small released model."""

    # The released weights differ in these.
    vit: Literal["mini", "vits", "vitb", "vitl"] = "vits"
    """Image transformer: DINOv2, or our narrow one (mini)."""
    width: int = 256
    """Channels of a point's features."""
    feature_downsample: int = 8
    """Image pixels per pixel of the cost volume: 8 (DL3DV) or 4 (RE10K)."""
    latent_downsample: int = 4
    """Image pixels per cell of the latent grid: 4, or 2 with a feature_downsample of 4."""
    gaussians_per_cell: int = 1
    """Gaussians per cell, a square number: 1, 4 or 16."""
    update: UpdateShape | None = UpdateShape()
    """None for a network without an update."""

    # These are the same in all released weights, and smaller in ours.
    cnn_widths: tuple[int, int, int] = RELEASED_CNN_WIDTHS
    """Channels of the convolutional maps, fine to coarse; the multi-view transformer has as many as the last one."""
    num_depths: int = 128
    """Depth candidates of the plane sweep."""
    unet_width: int = 128
    num_transformer_layers: int = 6
    """Layers of the multi-view transformer."""
    attention_width: int = 64
    """Channels of the attention over neighbouring points."""
    num_blocks: int = 6
    """Rounds of the point network."""

    # Ours; the released networks have none.
    guide_width: int = 0
    """Channels of the layers that join depths of the sparse points with those of the network; 0 for networks that see
    no points."""

    def __post_init__(self) -> None:
        if self.vit not in VARIANTS:
            raise ValueError(f"The image transformer is {self.vit!r}; one of {list(VARIANTS)} is needed.")
        if (self.feature_downsample, self.latent_downsample) not in ((8, 4), (4, 4), (4, 2)):
            raise ValueError(
                f"feature_downsample is {self.feature_downsample} and latent_downsample {self.latent_downsample}; "
                "8 and 4, 4 and 4, or 4 and 2 are needed."
            )
        side = math.isqrt(self.gaussians_per_cell)
        if side**2 != self.gaussians_per_cell or self.latent_downsample % side:
            raise ValueError(
                f"gaussians_per_cell is {self.gaussians_per_cell} with a latent_downsample of {self.latent_downsample};"
                " 1, or a square whose side divides the latent_downsample, is needed."
            )

    @property
    def vit_width(self) -> int:
        return VARIANTS[self.vit][0]

    @property
    def view_width(self) -> int:
        """Channels of the multi-view transformer."""
        return self.cnn_widths[-1]

    @property
    def gaussian_downsample(self) -> int:
        """Image pixels per side of a cell of the grid that the Gaussians lie on."""
        return self.latent_downsample // math.isqrt(self.gaussians_per_cell)

    @property
    def size_multiple(self) -> int:
        """Image sides are multiples of this, pixels."""
        return 64 if self.feature_downsample == 8 else 16

    @property
    def feature_width(self) -> int:
        """Channels of the latent features of the depth network."""
        if self.latent_downsample == 4:
            return self.vit_width // 4 + sum(self.cnn_widths) + self.view_width
        return self.vit_width // 16 + sum(self.cnn_widths[:2]) + 2 * (self.view_width // 4)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> ReSplatShape:
        """Read the widths from the named tensors of a whole model (without the prefix ``encoder.``).

        Raises:
            ValueError: If a tensor that is needed for this is missing or has another rank.
        """

        def size(name: str, dim: int = 0) -> int:
            return tensors[name].shape[dim]

        def count(prefix: str) -> int:
            return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})

        try:
            vit_width = size("depth_predictor.pretrained.cls_token", 2)
            vit = next((name for name, entry in VARIANTS.items() if entry[0] == vit_width), f"of width {vit_width}")
            backbone, middle = "depth_predictor.backbone.", "depth_predictor.upsampler.concat_projects.1.weight"
            cnn_widths = tuple(
                size(f"{backbone}{name}.weight") for name in ("conv1", "layer2.0.conv1", "layer3.0.conv1")
            )
            num_features = size("proj.weight", 1) - size("gaussian_regressor.0.weight", 0) - 1
            update = None
            if any(name.startswith("update_") for name in tensors):
                update = UpdateShape(
                    state_width=size("update_proj.weight"),
                    attention_width=size("update_module.1.blocks.0.attn.proj.weight", 1),
                    num_blocks=count("update_module.1.blocks."),
                    num_error_blocks=count("update_error_attn."),
                    error_widths=(size("update_feature.conv1.weight"), size("update_feature.layer2.0.conv1.weight")),
                )
                shown = size("update_module.0.linear.weight", 1) - PARAMETER_WIDTH - update.state_width
                update = replace(update, front_error=shown > update.error_width)
            return cls(
                vit=vit,
                cnn_widths=cnn_widths,
                width=size("proj.weight"),
                feature_downsample=8 if size(middle, 1) - size(middle) == cnn_widths[1] else 4,
                latent_downsample=4 if num_features == 48 + vit_width // 4 + sum(cnn_widths) + cnn_widths[2] else 2,
                gaussians_per_cell=size("gaussian_head.2.bias") // NUMBERS_PER_GAUSSIAN,
                num_depths=size("depth_predictor.depth_head.0.2.bias"),
                unet_width=size("depth_predictor.regressor.0.0.bias"),
                num_transformer_layers=count("depth_predictor.transformer.layers."),
                attention_width=size("pt.blocks.0.attn.proj.weight", 1),
                num_blocks=count("pt.blocks."),
                guide_width=size(guide) if (guide := "depth_predictor.guide.layers.0.bias") in tensors else 0,
                update=update,
            )
        except KeyError as error:
            raise ValueError(
                f"There is no tensor {error.args[0]!r} among the {len(tensors)} given; these are not weights of a "
                "ReSplat model in its released layout."
            ) from None
        except IndexError:
            raise ValueError("The tensors do not have the ranks of a ReSplat model's weights and biases.") from None


@dataclass(frozen=True)
class ReSplatConfig:
    """Behaviour that cannot be read from the tensors; the defaults are those of the released DL3DV weights.

    Weights files hold these options by name, and fingerprints in checkpoints hold them in this order.
    """

    # Of the released weights: networks.
    near: float = 0.01
    """Nearest depth of the plane sweep and of the renderer, units of the dataset."""
    far: float = 200.0
    """Farthest depth, units of the dataset."""
    scale_max: float = 1.0
    """Largest standard deviation of an initial Gaussian, units of the dataset."""
    scale_min: float = 1e-6
    """Smallest standard deviation, initially and after every update."""
    scale_bias: float = 4.0
    """Subtracted from the head's outputs before the softplus that gives scales."""
    half_resolution_depth: bool = False
    """Whether depths are predicted from images of half the size."""
    context_views: int = 8
    """Number of context views in training."""
    reference_views: int = 2
    """Number of nearest views that each view is compared with."""
    neighbours: int = 16
    """Number of points that each point attends to in the initial model, including itself."""
    update_neighbours: int = 8
    """The same in the update."""
    local_search: bool = False
    """In the initial model, search neighbours only among points that project nearby, see :func:`local_neighbours`."""
    update_local_search: bool = False
    """The same in the update."""
    views_at_once: int | None = None
    """Number of context views that the initial model sees together, to save memory; None for all. The update sees all.
    """

    # Ours; the defaults are what the released weights do.
    depth_range: Literal["weights", "points"] = "weights"
    """Whether near and far are the numbers above, or come from the sparse points of each scene."""
    units: Literal["dataset", "near"] = "dataset"
    """Unit of length of the networks: that of the dataset, or the nearest depth, so that the size of a scene does not
    matter."""
    gaussian_units: Literal["world", "cells"] = "world"
    """Units of initial scales, of their bounds and of update steps: those of the networks, or the size of a cell of the
    view that a Gaussian comes from, see :class:`l2o_splat.nets.resplat.gaussians.CellUnits`."""
    update_starts: Literal["initial_model", "any"] = "initial_model"
    """Scenes that the update was trained on: those of its own initial model, or scenes that start from points too."""
    step_decay: float = 1.0
    """The step of update t is multiplied by this to the power of t, so that late updates of weights with little
    training do no harm."""
    portrait: bool = False
    """Whether images may be higher than wide."""

    # Of the released weights: how they see a scene.
    world: Literal["middle_view", "raw"] = "middle_view"
    """Frame of the networks: that of the middle context view, or the scene's own."""
    longer_side: int = 448
    """Larger context views are reduced to this, pixels."""
    fit: Literal["squeeze", "crop", "enlarge"] = "squeeze"
    """How sides become multiples of what the networks need: each reduced by its own factor (nothing of the view is
    lost), cropped, or enlarged."""
    iterations: int = 4
    """Number of updates that the weights are made for."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks; auto is bfloat16 autocast on CUDA, as in training, and float32 elsewhere."""

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far:
            raise ValueError(f"near is {self.near} and far {self.far}; 0 < near < far is needed.")
        if not 0 < self.scale_min < self.scale_max:
            raise ValueError(f"Scales lie between {self.scale_min} and {self.scale_max}; 0 < min < max is needed.")
        if self.views_at_once is not None and self.views_at_once < 2:
            raise ValueError(f"views_at_once is {self.views_at_once}; at least 2 views are compared, or None for all.")
        if not 0 < self.step_decay <= 1:
            raise ValueError(f"step_decay is {self.step_decay}; a number above 0 and up to 1 is needed.")
        choices = {
            "depth_range": ("weights", "points"),
            "units": ("dataset", "near"),
            "gaussian_units": ("world", "cells"),
            "update_starts": ("initial_model", "any"),
            "world": ("middle_view", "raw"),
            "fit": ("squeeze", "crop", "enlarge"),
            "precision": ("auto", "float32", "bfloat16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; one of {allowed} is needed.")

    def uses_bfloat16(self, device: torch.device) -> bool:
        """Whether the networks run under bfloat16 autocast on a device."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager:
    """Autocast to bfloat16, or no autocast."""
    import torch  # Only here: `l2o train-initializer --help` reads the options of this module.

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


def full_precision(device: torch.device) -> AbstractContextManager:
    """No autocast, for the parts that the original computes in float32."""
    return autocast(device, bfloat16=False)
