"""The files of a finished or stopped training: splat, page to look at, and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from l2o_splat.sharing import (
    UpAxis,
    cut_harmonics,
    up_direction,
    upright_frame,
    used_degree,
    write_splat,
    write_view_page,
)
from l2o_splat.splat.report import REPORT_NAME, Report, write_report

PAGE_NAME = "view.html"
UP_AXES: dict[str, UpAxis] = {".ply": "y-down", ".spz": "y", ".sog": "y-down"}
"""Where each format's readers take up to be."""
PURPOSES = {
    ".ply": "the splat for most programs (SuperSplat, Blender, Unity, gsplat), y down as 3DGS writes it",
    ".spz": "the same in a tenth of the size, y up (Niantic's format)",
    ".sog": "the same in a twentieth of the size (PlayCanvas's format)",
}


@dataclass(frozen=True)
class Making:
    """How a splat was made, for the report."""

    title: str
    command: Sequence[str]
    """The command line."""
    facts: Mapping[str, str]
    capture: Sequence[tuple[str, bool]]
    """Lines on the photographs, and whether each is good."""
    curve: Sequence[tuple[float, float]]
    """Seconds of training and held-out PSNR."""


def write_results(
    out: Path, config: Path, formats: Sequence[str], making: Making, progress: Callable[[float, str], None]
) -> dict[str, float]:
    """Write splat files, page and report; each appears whole or not at all.

    Args:
        out: Folder for them.
        config: The ``config.yml`` of the run.
        formats: ``ply``, ``spz``, ``sog``.
        making: How it was made.
        progress: Called with the share that is done and what goes on.

    Returns:
        Held-out quality by name (``psnr``, ``ssim``, ``lpips``), as far as it could be measured.

    Raises:
        L2OError: If the run or its scene cannot be used.
    """
    # Only now: it imports nerfstudio.
    from l2o_splat.plugin.finished_run import open_finished_run

    progress(0.1, "measuring the held-out photographs")
    run = open_finished_run(config)
    words = [f"{len(run.gaussians):,} Gaussians"]
    if "psnr" in run.quality:
        words.insert(0, f"PSNR {run.quality['psnr']:.2f} dB on held-out photographs")
    # Degrees that were never drawn take most of a file and of the time to write it.
    gaussians = cut_harmonics(run.gaussians, used_degree(run.gaussians))
    files, up = {}, up_direction(run.cameras)
    for index, suffix in enumerate(f".{name}" for name in formats):
        progress(0.5 + 0.1 * index, f"writing splat{suffix}")
        write_splat(upright_frame(up, UP_AXES[suffix]).to_local(gaussians), out / f"splat{suffix}")
        files[f"splat{suffix}"] = PURPOSES[suffix]
    progress(0.8, f"writing {PAGE_NAME}")
    write_view_page(out / PAGE_NAME, gaussians, run.cameras, title=making.title, facts=words, settings=run.settings)
    report = Report(
        title=making.title,
        lead=", ".join(words) + ".",
        command=making.command,
        files={PAGE_NAME: "the scene in a browser; needs no network, can be sent as it is"} | files,
        pairs=run.held_out,
        curve=making.curve,
        capture=making.capture,
        facts=dict(making.facts) | {name: f"{value:.4g}" for name, value in run.quality.items()},
        next=next_commands(config),
    )
    write_report(out / REPORT_NAME, report)
    return run.quality


def next_commands(config: Path) -> dict[str, list[str]]:
    """What else can be done with a run, in nerfstudio's words."""
    load = ["--load-config", str(config)]
    return {
        "Look at it in nerfstudio": ["ns-viewer", *load],
        "Make a video": [
            "ns-render",
            "interpolate",
            *load,
            "--pose-source",
            "train",
            "--output-path",
            str(config.parent / "video.mp4"),
        ],
        "Measure it": ["l2o", "eval", *load],
    }
