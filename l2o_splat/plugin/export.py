"""Files of a saved run's scene: right side up, in part, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from nerfstudio.utils.eval_utils import eval_setup

from l2o_splat.gaussians import Gaussians
from l2o_splat.plugin.errors import OptionError
from l2o_splat.plugin.export_options import Selection
from l2o_splat.plugin.photographs import Pinholes, pinhole_cameras
from l2o_splat.plugin.saved_scenes import can_be_drawn
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.sharing import (
    UpAxis,
    cut_harmonics,
    opaque,
    seen_in,
    up_direction,
    upright_frame,
    write_splat,
    write_view_page,
)
from l2o_splat.views import PinholeCameras


@dataclass(frozen=True)
class Photographed:
    """How a run has seen its scene."""

    cameras: PinholeCameras
    """All training cameras, with the image size of the first."""
    by_size: list[PinholeCameras]
    """The same, each with its own image size."""
    settings: RasterSettings
    """How the scene is drawn."""


def photographed(load_config: Path) -> Photographed:
    """The training cameras of a run, from its capture, in the frame of its checkpoint.

    Raises:
        CaptureError: If the capture is not there any more, or is another one.
    """
    _, pipeline, _, _ = eval_setup(load_config, test_mode="inference")
    cameras = pipeline.datamanager.train_dataset.cameras.to("cpu")
    pinholes = Pinholes.of(cameras)
    by_size = [pinholes.cameras([i]) for i in range(len(pinholes.sizes))]
    return Photographed(pinhole_cameras(cameras), by_size, pipeline.model.raster_settings())


def export(
    load_config: Path,
    gaussians: Gaussians,
    selection: Selection,
    up: Literal["as-trained"] | UpAxis,
    paths: Sequence[Path],
    title: str,
) -> None:
    """Write the scene of a run to files, whose names tell their formats.

    Args:
        load_config: The config.yml of the run; its capture is read only if something needs the cameras.
        gaussians: Of its checkpoint.
        selection: What is exported.
        up: Axis of the files that points up.
        paths: ``.ply``, ``.spz``, ``.sog``, ``.safetensors`` or ``.html`` files in a folder that exists.
        title: Of a page.

    Raises:
        L2OError: If nothing is left, the cameras cannot be had, or a format cannot hold the scene.
    """
    pages = [path for path in paths if path.suffix == ".html"]
    seen = photographed(load_config) if pages or up != "as-trained" or selection.seen_in else None
    chosen = _chosen(gaussians, selection, seen)
    turned = chosen
    if up != "as-trained":
        turned = upright_frame(up_direction(seen.cameras), up).to_local(chosen)
    for path in paths:
        if path not in pages:
            write_splat(turned, path)
            continue
        write_view_page(
            path,
            chosen,
            seen.cameras,
            title=title,
            facts=(f"{len(chosen)} Gaussians",),
            settings=seen.settings,
        )


def _chosen(gaussians: Gaussians, selection: Selection, seen: Photographed | None) -> Gaussians:
    kept = can_be_drawn(gaussians)
    if selection.crop is not None:
        kept &= selection.crop.within(gaussians.means)
    if selection.least_opacity:
        kept &= opaque(gaussians, selection.least_opacity)
    if selection.seen_in:
        kept &= seen_in(gaussians.means, seen.by_size) >= selection.seen_in
    if not kept.any():
        raise OptionError(
            f"None of the {len(kept)} Gaussians would be exported: none is at least {selection.least_opacity} opaque "
            f"and lies in {selection.seen_in} training photographs; lower --least-opacity or --seen-in."
        )
    chosen = gaussians.map(torch.Tensor.detach)[kept]
    if selection.sh_degree is not None and selection.sh_degree < chosen.sh_degree:
        chosen = cut_harmonics(chosen, selection.sh_degree)
    return chosen
