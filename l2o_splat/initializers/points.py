"""One Gaussian per point: structure-from-motion points, or random ones for captures without any."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.scene import scene_extent
from l2o_splat.views import PinholeCameras

SPACING_NEIGHBOURS = 3
"""Nearest other points whose mean squared distance sets a Gaussian's size (arXiv 2308.04079)."""
SMALLEST_SPACING = 1e-7**0.5
"""Spacing assumed for points with no other point at a distance, scene units (the floor of 3DGS)."""
PADDING = 1e-10
"""Scale (scene units) and opacity of padding Gaussians; they get no gradient, so rules leave them alone."""


@dataclass(frozen=True)
class PointInitOptions:
    """How points become Gaussians."""

    num_points: int | None = None
    """Number of Gaussians wanted; of more points a random choice is taken. None takes all."""
    pad: bool = False
    """Fill up with invisible Gaussians at the origin when there are fewer points than num_points."""
    drop_black: bool = False
    """Leave out points whose colour is exactly black (points without an observation in some datasets)."""
    scaling_factor: float = 1.0
    """Multiplies the size of every Gaussian."""
    opacity: float = 0.1
    """Opacity of every Gaussian, above 0 and below 1."""
    sh_degree: int = 3
    """Degree of the spherical harmonics stored; those above 0 start at zero."""
    seed: int = 0
    """Seed of the random choice."""

    def __post_init__(self) -> None:
        if self.num_points is not None and self.num_points < 1:
            raise ValueError(f"num_points is {self.num_points}; at least 1 is needed, or None for all points.")
        if self.pad and self.num_points is None:
            raise ValueError("pad is on without num_points; say how many Gaussians to pad to.")
        if not 0 < self.opacity < 1 or self.scaling_factor <= 0:
            raise ValueError(
                f"opacity is {self.opacity} and scaling_factor {self.scaling_factor}; "
                "an opacity between 0 and 1 and a positive factor are needed."
            )


def unit_colours(rgb: Shaped[Tensor, "p 3"]) -> Float[Tensor, "p 3"]:
    """sRGB, 0 to 1, of colours that are 0 to 255 when integers."""
    return rgb.float() if rgb.is_floating_point() else rgb / 255


def gaussians_from_points(
    xyz: Float[Tensor, "p 3"], rgb: Shaped[Tensor, "p 3"], options: PointInitOptions = PointInitOptions()
) -> Gaussians:
    """Isotropic Gaussians as wide as the points are apart (3DGS, arXiv 2308.04079, section 5.1).

    Args:
        xyz: Positions, scene units, world frame.
        rgb: Colours, sRGB: 0 to 1, or 0 to 255 when integers.
        options: Size, number, degree.

    Raises:
        ValueError: If no point is left, or positions are not finite.
    """
    if xyz.shape != rgb.shape or xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"xyz has shape {tuple(xyz.shape)} and rgb {tuple(rgb.shape)}; both must be [p, 3].")
    xyz = xyz.float()
    rgb = unit_colours(rgb)
    if options.drop_black:
        coloured = (rgb != 0).any(dim=1)
        xyz, rgb = xyz[coloured], rgb[coloured]
    if not len(xyz):
        raise ValueError(
            "There are no points to start from; reconstruct the capture with points, or start from random ones."
        )
    bad = int((~torch.isfinite(xyz)).any(dim=1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(xyz)} points have positions that are not finite; remove them from the file.")
    if options.num_points is not None and len(xyz) > options.num_points:
        generator = torch.Generator().manual_seed(options.seed)
        chosen = torch.randperm(len(xyz), generator=generator)[: options.num_points].sort().values.to(xyz.device)
        xyz, rgb = xyz[chosen], rgb[chosen]

    n = len(xyz)
    quats = torch.zeros(n, 4, device=xyz.device)
    quats[:, 0] = 1
    gaussians = Gaussians(
        means=xyz,
        scales=(_spacing(xyz) * options.scaling_factor).log()[:, None].repeat(1, 3),
        quats=quats,
        opacities=torch.full((n, 1), options.opacity, device=xyz.device).logit(),
        features_dc=(rgb - 0.5) / SH_C0,
        features_rest=torch.zeros(n, (options.sh_degree + 1) ** 2 - 1, 3, device=xyz.device),
    )
    return padded(gaussians, options.num_points) if options.pad else gaussians


def _spacing(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Root mean squared distance to the nearest other points, never zero."""
    k = min(SPACING_NEIGHBOURS + 1, len(xyz))
    neighbours = nearest_neighbours(xyz, k)
    squared = (xyz[neighbours] - xyz[:, None]).square().sum(dim=(1, 2)) / max(k - 1, 1)
    return squared.sqrt().clamp(min=SMALLEST_SPACING)


def padded(gaussians: Gaussians, n: int) -> Gaussians:
    """The Gaussians, filled up to ``n`` with invisible ones at the origin if there are fewer."""
    missing = n - len(gaussians)
    if missing <= 0:
        return gaussians
    padding = gaussians[:1].map(lambda row: torch.zeros_like(row).repeat(missing, *[1] * (row.ndim - 1)))
    padding.scales.fill_(PADDING).log_()
    padding.opacities.fill_(PADDING).logit_()
    padding.quats[:, 0] = 1
    return gaussians.zip_map(lambda rows, empty: torch.cat([rows, empty]), padding)


def random_points(
    cameras: PinholeCameras, num: int, seed: int = 0, reach: float = 3.0
) -> tuple[Float[Tensor, "num 3"], Float[Tensor, "num 3"]]:
    """Points of random colour that each lie in the view of some camera.

    Every point falls into the frustum of a random camera, evenly by volume up to a distance, so that
    space seen by many cameras gets more points.

    Args:
        cameras: The training cameras.
        num: Number of points.
        seed: Seed of the random draw.
        reach: Largest distance along the viewing direction, in scene extents (or scene units where all
            cameras are in one place).

    Returns:
        Positions (scene units) and colours (sRGB 0 to 1).
    """
    generator = torch.Generator().manual_seed(seed)
    device = cameras.viewmats.device

    def uniform(width: int) -> Tensor:
        return torch.rand(num, width, generator=generator).to(device)

    camera = torch.randint(len(cameras), (num,), generator=generator).to(device)
    pixel = uniform(2) * torch.tensor([cameras.width, cameras.height], device=device)
    far = reach * (scene_extent(cameras.centres) or 1.0)
    depth = far * uniform(1).pow(1 / 3)
    # One camera per point.
    xyz = cameras[camera].unproject(pixel[:, None], depth)[:, 0]
    return xyz, uniform(3)
