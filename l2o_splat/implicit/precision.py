"""Precision: how strongly each Gaussian is held near its anchor, one number per Gaussian and group of channels.

DIFF3R (arXiv 2604.01030) calls it an uncertainty weight; a large one means "keep the prediction". That it is one value
per Gaussian and attribute is the paper's; the five groups and the factor of the view-dependent colour are ours.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from l2o_splat.gaussians import FIELDS, Gaussians

GROUPS = ("mean", "scale", "rotation", "opacity", "colour")
"""Columns of a precision ``[n, 5]``, one for each of the first five ``FIELDS``."""

MEAN, SCALE, ROTATION, OPACITY, COLOUR = range(5)

REST_FACTOR = 20.0
"""Precision of ``features_rest`` in units of that of the colour; splatfacto's rates have the inverse ratio."""


def check_precision(anchor: Gaussians, precision: Float[Tensor, "n 5"]) -> None:
    """Refuse what cannot hold Gaussians in place.

    Raises:
        ValueError: If there is not one finite positive number per Gaussian and group, of the anchor's dtype and device.
    """
    if tuple(precision.shape) != (len(anchor), len(GROUPS)):
        raise ValueError(
            f"The precision has shape {tuple(precision.shape)} for {len(anchor)} Gaussians; [{len(anchor)}, 5] is "
            f"needed, columns {', '.join(GROUPS)}: densification and pruning must be off, since rows belong together."
        )
    if (precision.dtype, precision.device) != (anchor.means.dtype, anchor.device):
        raise ValueError(
            f"The precision is {precision.dtype} on {precision.device}, but the Gaussians are {anchor.means.dtype} on "
            f"{anchor.device}; convert it with .to()."
        )
    bad = ~(precision.isfinite() & (precision > 0))
    counts = bad.sum(dim=0).tolist()
    if any(counts):
        found = ", ".join(f"{count} of {name}" for name, count in zip(GROUPS, counts, strict=True) if count)
        raise ValueError(
            f"The precision holds numbers that are not finite and positive ({found}); add a floor, such as a "
            "thousandth of the typical value of each group."
        )


def per_channel(precision: Float[Tensor, "n 5"], bands: int) -> Float[Tensor, "n d"]:
    """One precision per unactivated parameter, in packing order; differentiable.

    Args:
        precision: One number per Gaussian and group.
        bands: Spherical harmonics beyond degree 0, k in ``features_rest [n, k, 3]``; d = 14 + 3 k.
    """
    columns, factors = _columns(bands, precision)
    return precision[:, columns] * factors


def group_means(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n 5"]:
    """Mean of one number per parameter over the channels of each group, the view-dependent colour left out."""
    return torch.stack([rows[:, Gaussians.columns(name)].mean(dim=1) for name in FIELDS[: len(GROUPS)]], dim=1)


def _columns(bands: int, like: Tensor) -> tuple[Int[Tensor, " d"], Float[Tensor, " d"]]:
    """Group and factor of every parameter of a Gaussian."""
    rest = Gaussians.columns("features_rest", bands)
    group = torch.empty(rest.stop, dtype=torch.int64, device=like.device)
    for index, name in enumerate(FIELDS[: len(GROUPS)]):
        group[Gaussians.columns(name)] = index
    group[rest] = COLOUR
    factors = like.new_ones(rest.stop)
    factors[rest] = REST_FACTOR
    return group, factors
