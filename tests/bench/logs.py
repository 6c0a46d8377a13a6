"""Synthetic logs, and the sweeps they belong to."""

from __future__ import annotations

from pathlib import Path

from l2o_splat.bench.measures import Results
from l2o_splat.bench.methods import Method
from l2o_splat.bench.run import Run, run_from_log
from l2o_splat.bench.run_log import LOG_NAME, RunLog, read_log
from l2o_splat.bench.spec import RunSpec, SweepOptions, plan_runs
from l2o_splat.scenes.capture_names import CaptureSource


def make_spec(scene="fern", method="adam", seed=0, steps=4, seconds=None, horizon=None) -> RunSpec:
    capture = CaptureSource(scene, ("nerfstudio-data",), f"/captures/{scene}")
    options = SweepOptions(steps, seconds, "wall", "all", 0.25, seed + 1, () if horizon is None else (horizon,))
    return plan_runs([capture], [Method(method, method)], {method: True}, options)[-1]


def parts(total: float) -> dict[str, float]:
    """A step of this many seconds: half render, three eighths backward, an eighth update."""
    return {"render": total / 2, "backward": total * 3 / 8, "update": total / 8}


def write_log(
    folder: Path,
    step_seconds: list[float],
    quality: dict[int, float],
    initializer: float = 0.5,
    status: str | None = "ok",
    reason: str = "",
    lpips: bool = True,
    machine: str = "test processor",
    peak: float = 100.0,
) -> Path:
    """A log whose first step is that of a process; SSIM is PSNR / 100 and LPIPS is 1 / PSNR. The other
    clock runs twice as fast.

    Args:
        quality: PSNR by number of steps.
        status: None leaves the run without an end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with RunLog(folder / LOG_NAME) as log:
        log.write(
            "start",
            initializer_seconds=initializer,
            other_initializer_seconds=2 * initializer,
            kernel_seconds=3.0,
            loading_seconds=2.0,
            training_views=7,
            held_out_views=2,
            machine=machine,
            commit="abc",
        )

        def evaluate(step: int) -> None:
            if step in quality:
                psnr = quality[step]
                log.write(
                    "evaluation",
                    step=step,
                    num_gaussians=1000 + step,
                    needles=step / 100,
                    psnr=psnr,
                    ssim=psnr / 100,
                    lpips=1 / psnr if lpips else None,
                )

        evaluate(0)
        for index, seconds in enumerate(step_seconds):
            log.write("step", step=index + 1, seconds=parts(seconds), other_seconds=2 * seconds, first=index == 0)
            evaluate(index + 1)
        if status is not None:
            log.write("end", status=status, reason=reason, **({"peak_memory_mib": peak} if status == "ok" else {}))
    return folder / LOG_NAME


def make_run(tmp_path: Path, spec: RunSpec | None = None, **log) -> Run:
    """A run with the given log, as :func:`write_log` takes it."""
    spec = spec or make_spec()
    log = {"step_seconds": [3.0, 1.0, 1.0, 1.0], "quality": {0: 10.0, 4: 20.0}} | log
    return run_from_log(spec, read_log(write_log(tmp_path / spec.folder_name, **log)))


def two_scene_results(tmp_path: Path) -> Results:
    """Two scenes, two methods, two seeds; every number below is chosen so that the derived ones can be checked by hand.

    adam takes 1 s a step, tuned 2 s; both initialize in 0.5 s. PSNR at steps 0, 2, 4:

    ======  ========  ================  ================
    scene   method    seed 0            seed 1
    ======  ========  ================  ================
    fern    adam      10, 12, 14        10, 12, 15
    fern    tuned     10, 20, 19        10, 21, 20
    fox     adam      8, 9, 10          8, 9, 10
    fox     tuned     8, 16, 18         8, 16, 18
    ======  ========  ================  ================
    """
    psnr = {
        ("fern", "adam", 0): (10, 12, 14),
        ("fern", "tuned", 0): (10, 20, 19),
        ("fern", "adam", 1): (10, 12, 15),
        ("fern", "tuned", 1): (10, 21, 20),
        ("fox", "adam", 0): (8, 9, 10),
        ("fox", "tuned", 0): (8, 16, 18),
        ("fox", "adam", 1): (8, 9, 10),
        ("fox", "tuned", 1): (8, 16, 18),
    }
    runs = []
    for (scene, method, seed), values in psnr.items():
        step = {"adam": 1.0, "tuned": 2.0}[method]
        runs.append(
            make_run(
                tmp_path,
                make_spec(scene, method, seed),
                step_seconds=[step + 7] + 3 * [step],
                quality=dict(zip((0, 2, 4), map(float, values), strict=True)),
            )
        )
    return Results({"command": "l2o bench --data fern fox", "machine": "test processor"}, runs)
