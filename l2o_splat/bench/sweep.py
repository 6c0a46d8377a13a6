"""The runs of a sweep, one after the other here or side by side on a cluster, with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from l2o_splat.bench.cluster import run_on_cluster
from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.processes import RUN_COMMAND, is_finished, run_process, steps_taken
from l2o_splat.bench.run import Run, run_from_log
from l2o_splat.bench.run_log import LOG_NAME, read_log
from l2o_splat.bench.spec import RunSpec
from l2o_splat.files import held_folder

RUNS_NAME = "runs"


def run_sweep(
    specs: Sequence[RunSpec],
    out: Path,
    pictures: bool,
    console: Console,
    address: str | None = None,
    cores: int | None = None,
    command: Sequence[str] = RUN_COMMAND,
) -> None:
    """Run every spec that has not finished in ``out`` yet.

    Args:
        specs: Planned runs.
        out: Folder of the report.
        pictures: Save held-out views of the first seed.
        console: Console that shows the progress.
        address: Address of a Ray cluster; None runs here, one run after the other, so that nothing disturbs the clock.
        cores: Cores of one run; see :func:`run_on_cluster`.
        command: Program to start for a spec.
    """
    folder = out / RUNS_NAME
    todo = [spec for spec in specs if not is_finished(folder / spec.folder_name)]
    with_pictures = frozenset(spec for spec in todo if pictures and spec.seed == 0)
    if len(todo) < len(specs):
        console.print(f"{len(specs) - len(todo)} of {len(specs)} runs are finished in {out} already.")
    with _only_one_sweep(out), _progress(console) as progress:
        overall = progress.add_task("runs", total=len(specs), completed=len(specs) - len(todo))
        if address is not None:
            finished = run_on_cluster(todo, folder, with_pictures, address, cores, command)
        else:
            finished = _run_here(todo, folder, with_pictures, cores, command, progress)
        for spec in finished:
            console.print(_sentence(read_run(spec, out)), highlight=False, soft_wrap=True)
            progress.advance(overall)


def read_run(spec: RunSpec, out: Path) -> Run:
    """Read a run from its log; pending if it was never begun."""
    return run_from_log(spec, read_log(out / RUNS_NAME / spec.folder_name / LOG_NAME))


def _run_here(
    todo: Sequence[RunSpec],
    folder: Path,
    pictures: frozenset[RunSpec],
    cores: int | None,
    command: Sequence[str],
    progress: Progress,
) -> Iterator[RunSpec]:
    steps = progress.add_task("", total=None)
    for spec in todo:
        target = folder / spec.folder_name
        progress.reset(steps, total=spec.steps, description=f"{spec.scene} {spec.label} seed {spec.seed}")
        run_process(
            spec,
            target,
            spec in pictures,
            command,
            cores,
            on_poll=lambda target=target: progress.update(steps, completed=steps_taken(target)),
        )
        yield spec
    progress.remove_task(steps)


def _sentence(run: Run) -> str:
    """Describe a run that has ended in one line."""
    name = f"{run.scene} {run.method} seed {run.seed}"
    if not run.ok:
        return f"{name}: {run.status.replace('_', ' ')}: {run.reason}"
    return f"{name}: PSNR {run.last.psnr:.2f} dB after {run.last.step} steps, {run.last.seconds:.1f} s"


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def _only_one_sweep(out: Path) -> AbstractContextManager[None]:
    refusal = f"Another `l2o bench` is writing to {out}; wait for it, or use another --out."
    return held_folder(out, BenchError(refusal))
