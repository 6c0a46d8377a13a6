"""The files of a finished or stopped training: splat, page to look at, and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.utils.eval_utils import eval_setup
from torch import Tensor

from l2o_splat.plugin.photographs import pinhole_cameras
from l2o_splat.plugin.pipeline import L2OPipeline
from l2o_splat.plugin.saved_scenes import check_run
from l2o_splat.sharing import UpAxis, up_direction, upright_frame, write_splat, write_view_page
from l2o_splat.splat.report import REPORT_NAME, Pair, Report, write_report

PAGE_NAME = "view.html"
MOST_PAIRS = 3
"""Held-out views in the report."""
UP_AXES: dict[str, UpAxis] = {".ply": "y-down", ".spz": "y", ".sog": "y-down"}
"""Where each format's readers take up to be."""
PURPOSES = {
    ".ply": "the splat for most programs (SuperSplat, Blender, Unity, gsplat), y down as 3DGS writes it",
    ".spz": "the same in a tenth of the size, y up (Niantic's format)",
    ".sog": "the same in a twentieth of the size (PlayCanvas's format)",
}


def write_results(
    out: Path,
    config: Path,
    title: str,
    formats: tuple[str, ...],
    command: list[str],
    facts: Mapping[str, str],
    capture: list[tuple[str, bool]],
    curve: list[tuple[float, float]],
    progress: Callable[[float, str], None],
) -> dict[str, float]:
    """Write splat files, page and report; each appears whole or not at all.

    Args:
        out: Folder for them.
        config: The ``config.yml`` of the run.
        title: Of the pages.
        formats: ``ply``, ``spz``, ``sog``.
        command: The command line that made it, for the report.
        facts: What to tell about the making.
        capture: Lines on the photographs, and whether each is good.
        curve: Seconds of training and held-out PSNR.
        progress: Called with the share that is done and what goes on.

    Returns:
        Held-out quality by name (``psnr``, ``ssim``, ``lpips``), as far as it could be measured.

    Raises:
        L2OError: If the run or its scene cannot be used.
    """
    check_run(config)
    _, pipeline, _, _ = eval_setup(config, test_mode="test")
    progress(0.3, "measuring the held-out photographs")
    quality, pairs = held_out(pipeline)
    gaussians = pipeline.model.gaussians.detach().to("cpu", torch.float32)
    cameras = pinhole_cameras(pipeline.datamanager.train_dataset.cameras)
    words = [f"{len(gaussians):,} Gaussians"]
    if "psnr" in quality:
        words.insert(0, f"PSNR {quality['psnr']:.2f} dB on held-out photographs")
    files = {}
    for index, suffix in enumerate(f".{name}" for name in formats):
        progress(0.4 + 0.1 * index, f"writing splat{suffix}")
        upright = upright_frame(up_direction(cameras), UP_AXES[suffix]).to_local(gaussians)
        write_splat(upright, out / f"splat{suffix}")
        files[f"splat{suffix}"] = PURPOSES[suffix]
    progress(0.7, f"writing {PAGE_NAME}")
    settings = pipeline.model.raster_settings()
    write_view_page(out / PAGE_NAME, gaussians, cameras, title=title, facts=words, settings=settings)
    files = {PAGE_NAME: "the scene in a browser; needs no network, can be sent as it is"} | files
    report = Report(
        title=title,
        lead=", ".join(words) + ".",
        command=command,
        files=files,
        pairs=pairs,
        curve=curve,
        capture=capture,
        facts=dict(facts) | {name: f"{value:.4g}" for name, value in quality.items()},
        next=next_commands(config),
    )
    write_report(out / REPORT_NAME, report)
    return quality


def held_out(pipeline: L2OPipeline) -> tuple[dict[str, float], list[Pair]]:
    """Mean held-out quality, and some of the views beside their photographs."""
    dataset = pipeline.datamanager.eval_dataset
    if not len(dataset):
        return {}, []
    quality = pipeline.get_average_eval_image_metrics()
    shown = {round(index) for index in np.linspace(0, len(dataset) - 1, min(MOST_PAIRS, len(dataset)))}
    pairs = []
    for index, (camera, batch) in enumerate(pipeline.datamanager.fixed_indices_eval_dataloader):
        if index in shown:
            drawn = pipeline.model.get_outputs_for_camera(camera)
            measured, images = pipeline.model.get_image_metrics_and_images(drawn, batch)
            photograph, image = images["img"].chunk(2, dim=1)
            name = dataset.image_filenames[index].name
            pairs.append(Pair(name, _bytes(photograph), _bytes(image), measured.get("psnr")))
    return {name: quality[name] for name in ("psnr", "ssim", "lpips") if name in quality}, pairs


def _bytes(image: Float[Tensor, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()


def next_commands(config: Path) -> dict[str, list[str]]:
    """What else can be done with a run, in nerfstudio's words."""
    load = ["--load-config", str(config)]
    return {
        "Look at it in nerfstudio": ["ns-viewer", *load],
        "Make a video": ["ns-render", "interpolate", *load, "--output-path", str(config.parent / "video.mp4")],
        "Measure it": ["l2o", "eval", *load],
    }
