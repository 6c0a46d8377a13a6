"""Which views a network makes a scene from, and how they come to sizes that it can work with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.view_sampling import spread_views
from l2o_splat.views import PinholeCameras, Views

OVERLAP_GRID, OVERLAP_DEPTHS = 8, 32
"""Pixels along each side, and depths, of the points on which overlap is tried."""
FEWEST_POINTS = 20
"""Fewest sightings of points that give a range of depths."""
POINT_QUANTILE, POINT_MARGIN = 0.02, 1.3
"""Share of the points in a view that is left out at either end of its depths, and the factor by which the range of the
others is widened at either end."""

NO_SHARE = 1e-6
"""Absolute weight up to which a pixel adds nothing to a resized one but rounding."""


def selection_order(centres: Float[Tensor, "n 3"], count: int) -> list[int]:
    """Views spread over the capture: first the one farthest from the mean of all, then the farthest from those before.

    Args:
        centres: Camera centres, scene units.
        count: Views wanted; all of them where there are fewer.
    """
    return spread_views(centres.double().cpu().numpy(), count)


def choose_context(centres: Float[Tensor, "n 3"], count: int) -> list[int]:
    """Indices of context views spread over the capture, in the order of the capture."""
    return sorted(selection_order(centres, count))


def choose_evenly(num_views: int, count: int) -> list[int]:
    """Indices of context views at even distances along the order of the capture, its ends among them."""
    return np.linspace(0, num_views - 1, min(count, num_views)).round().astype(int).tolist()


def lonely_views(cameras: PinholeCameras, near: float, far: float) -> list[int]:
    """Indices of views that share nothing with any other: no other sees a point of what they see.

    Tried on a grid of points in front of each view, so a small overlap may go unnoticed.

    Args:
        cameras: Of the context.
        near: Nearest depth considered (camera z), scene units.
        far: Farthest depth considered.
    """
    v, device = len(cameras), cameras.Ks.device
    steps = (torch.arange(OVERLAP_GRID, device=device) + 0.5) / OVERLAP_GRID
    pixels = torch.stack(torch.meshgrid(steps * cameras.width, steps * cameras.height, indexing="xy"), dim=2)
    depths = torch.logspace(np.log10(near), np.log10(far), OVERLAP_DEPTHS, device=device)
    # All pixels at the first depth, then all at the second one.
    pixels, depths = pixels.flatten(0, 1).repeat(OVERLAP_DEPTHS, 1), depths.repeat_interleave(OVERLAP_GRID**2)
    world = cameras.unproject(pixels, depths[None])
    alone = []
    for view in range(v):
        inside = cameras.inside(*cameras.project(world[view]))
        inside[view] = False
        if not inside.any():
            alone.append(view)
    return alone


def depth_range(
    points: Float[Tensor, "p 3"], cameras: PinholeCameras
) -> tuple[Float[Tensor, " v"], Float[Tensor, " v"]]:
    """Nearest and farthest depth (camera z, scene units) to consider in each view, from points that it sees (ours).

    Views of one scene may see depths of quite different ranges, and candidates outside of a view's own are wasted.
    A view that sees too few points takes the range of all views.

    Raises:
        ValueError: If the views see too few of the points.
    """
    pixels, depth = cameras.project(points)
    inside = cameras.inside(pixels, depth)
    seen = depth[inside]
    if len(seen) < FEWEST_POINTS:
        raise ValueError(
            f"The context views see {len(seen)} of the {len(points)} points, and at least {FEWEST_POINTS} are needed "
            "to tell a range of depths; use the range of the weights."
        )
    limits = []
    for view in range(len(cameras)):
        own = depth[view][inside[view]]
        depths = (own if len(own) >= FEWEST_POINTS else seen).cpu().numpy()
        limits.append(np.quantile(depths, [POINT_QUANTILE, 1 - POINT_QUANTILE]))
    nearest, farthest = depth.new_tensor(np.array(limits)).unbind(dim=1)
    return nearest / POINT_MARGIN, farthest * POINT_MARGIN


def check_context(views: Views, least: int, portrait: bool) -> None:
    """Refuse context views that ReSplat's networks cannot work with.

    Args:
        views: At any size.
        least: Fewest views.
        portrait: Whether they may be higher than wide.

    Raises:
        ValueError: If there are too few, or they are higher than wide.
    """
    width, height = views.cameras.width, views.cameras.height
    if len(views) < least:
        raise ValueError(
            f"There is {len(views)} context view; depths come from comparing views: give at least {least}."
        )
    if height > width and not portrait:
        raise ValueError(
            f"The context views have {width} x {height} pixels; ReSplat needs images "
            "that are no higher than wide: crop them, or turn images and cameras by a quarter."
        )


def fit(views: Views, multiple: int, longer_side: int, how: str) -> Views:
    """Context views whose sides are multiples of a number of pixels, with their masks; see :func:`resized`.

    Args:
        views: At any size of at least ``multiple`` pixels.
        multiple: Pixels.
        longer_side: Larger views are reduced to this, pixels.
        how: ``squeeze`` reduces each side by its own factor, ``crop`` cuts the borders off, ``enlarge`` goes up to
            the next multiples.

    Raises:
        ValueError: If the views are too small, or ``how`` is unknown.
    """
    width, height = views.cameras.width, views.cameras.height
    factor = min(1.0, longer_side / max(width, height))
    reduced = (round(height * factor), round(width * factor))
    whole = (reduced[0] // multiple * multiple, reduced[1] // multiple * multiple)
    if how == "enlarge":
        return resized(views, *(-(-side // multiple) * multiple for side in reduced))
    if not min(whole):
        raise ValueError(
            f"The context views have {width} x {height} pixels ({reduced[1]} x {reduced[0]} after reduction); the "
            f"networks need at least {multiple} x {multiple}: use larger images, or 'enlarge'."
        )
    if how == "crop":
        return crop_to_multiple(resized(views, *reduced), multiple)
    if how == "squeeze":
        return resized(views, *whole)
    raise ValueError(f"Views can be made to fit by 'squeeze', 'crop' or 'enlarge', not by {how!r}.")


def resized(views: Views, height: int, width: int) -> Views:
    """The same views at another size; pixels need not stay square.

    Reducing goes with a filter against aliasing, enlarging is bilinear. A pixel counts only if every pixel that its
    filter takes something from counts, so that none of them changes with what is under a mask. Masked pixels of the
    result have no meaning, but are finite if the others are.
    """
    cameras = views.cameras
    if (cameras.height, cameras.width) == (height, width):
        return views
    reduced = height <= cameras.height and width <= cameras.width
    images = _interpolated(views.blanked(0.0).images.permute(0, 3, 1, 2), height, width, reduced)
    factors = cameras.Ks.new_tensor([width / cameras.width, height / cameras.height, 1.0])
    fitted = PinholeCameras(cameras.viewmats, cameras.Ks * factors[:, None], width, height)
    masks = None
    if views.masks is not None:
        masked = (~views.counted[..., 0]).to(views.images)
        rows, columns = (
            _taken_from(old, new, reduced).to(masked) for old, new in ((cameras.height, height), (cameras.width, width))
        )
        masks = (rows @ masked @ columns.mT == 0)[..., None].to(views.masks)
    return replace(views, cameras=fitted, images=images.permute(0, 2, 3, 1), masks=masks)


def _interpolated(
    images: Float[Tensor, "v c h w"], height: int, width: int, reduced: bool
) -> Float[Tensor, "v c height width"]:
    if not reduced:
        return resize(images, (height, width))
    return F.interpolate(images, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)


def _taken_from(old: int, new: int, reduced: bool) -> Bool[Tensor, "new old"]:
    """Along one axis, which pixels each pixel of the new size takes something from; ``reduced`` as for the images."""
    each, size = torch.eye(old)[None, None], (old, new)
    taken = F.interpolate(each, size=size, mode="bicubic", antialias=True) if reduced else resize(each, size)
    return taken[0, 0].mT.abs() > NO_SHARE


def crop_to_multiple(views: Views, multiple: int, move_principal_point: bool = True) -> Views:
    """The middle of the views, with sides that are multiples of a number of pixels.

    Args:
        views: At least ``multiple`` pixels on each side.
        multiple: Pixels.
        move_principal_point: False keeps it where it is in units of the image size, as the loader of the original
            does, which is exact for principal points in the middle only.
    """
    cameras = views.cameras
    height, width = cameras.height // multiple * multiple, cameras.width // multiple * multiple
    return cropped(views, height, width, move_principal_point)


def cropped(views: Views, height: int, width: int, move_principal_point: bool = True) -> Views:
    """The middle of the views; see :func:`crop_to_multiple`.

    Args:
        views: At least ``height`` x ``width`` pixels.
        height: Pixels.
        width: Pixels.
        move_principal_point: As there.
    """
    cameras = views.cameras
    top, left = (cameras.height - height) // 2, (cameras.width - width) // 2
    Ks = cameras.Ks.clone()
    if move_principal_point:
        Ks[:, :2, 2] -= Ks.new_tensor([left, top])
    else:
        Ks[:, :2, 2] *= Ks.new_tensor([width / cameras.width, height / cameras.height])
    rows, columns = slice(top, top + height), slice(left, left + width)
    masks = None if views.masks is None else views.masks[:, rows, columns]
    cropped_cameras = PinholeCameras(cameras.viewmats, Ks, width, height)
    return replace(views, cameras=cropped_cameras, images=views.images[:, rows, columns], masks=masks)
