"""Measured runs of nerfstudio's trainer, as ``l2o bench`` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from l2o_splat.bench.processes import OUTPUT_NAME, is_finished, run_process
from l2o_splat.bench.run import Run
from l2o_splat.bench.spec import RunSpec
from l2o_splat.bench.sweep import RUNS_NAME, read_run
from l2o_splat.prove.part import Numbers, Setting
from l2o_splat.scenes.capture_names import CaptureSource, find_capture

BUILT_IN = "l2o-demo"
PHOTOGRAPHS = (".jpg", ".jpeg", ".png")


def capture_of(setting: Setting) -> CaptureSource:
    """The capture that was given, or the built-in one."""
    return find_capture(BUILT_IN if setting.data is None else str(setting.data))


def spec_of(
    capture: CaptureSource,
    method: str,
    options: Sequence[str],
    *,
    steps: int | None,
    horizon: int | None,
    scale: float,
    seconds: float | None = None,
    evaluated_every: float | None = None,
) -> RunSpec:
    """A run on every training view, of the first seed."""
    return RunSpec(
        scene=capture.scene,
        dataparser=capture.dataparser,
        data=capture.data,
        method=method,
        options=tuple(options),
        label=method,
        horizon=horizon,
        seed=0,
        steps=steps,
        seconds=seconds,
        clock="wall",
        views="all",
        scale=scale,
        evaluated_every=evaluated_every,
    )


def run_once(spec: RunSpec, out: Path) -> Run:
    """Run a spec below a folder, unless it is finished there; one that was interrupted goes on."""
    folder = out / RUNS_NAME / spec.folder_name
    if not is_finished(folder):
        run_process(spec, folder, pictures=False)
        print((folder / OUTPUT_NAME).read_text(errors="replace")[-4000:], flush=True)
    return read_run(spec, out)


def numbers_of(run: Run) -> Numbers:
    """What judges and report need of a run."""
    return {
        "status": run.status,
        "reason": run.reason,
        "steps": run.steps,
        "seconds": run.seconds,
        "step_ms": 1000 * run.step_seconds["total"] if run.step_seconds else None,
        "gaussians": run.num_gaussians,
        "peak_mib": run.peak_memory_mib,
        "curve": [[point.step, point.seconds, point.psnr] for point in run.curve],
    }


def scale_to(folder: str | Path | None, side: int, of_height: bool = False) -> float:
    """The scale at which the photographs of a folder have a longer side (or a height) of at most ``side`` pixels."""
    if folder is None:
        return 1.0
    from PIL import Image

    # The images at full size; copies at smaller ones have names like images_4.
    named = Path(folder) / "images"
    photographs = sorted((named if named.is_dir() else Path(folder)).rglob("*"))
    first = next((path for path in photographs if path.suffix.lower() in PHOTOGRAPHS), None)
    if first is None:
        return 1.0
    with Image.open(first) as image:
        size = image.height if of_height else max(image.size)
    return min(1.0, side / size)
