"""A sweep on a Ray cluster, whose workers start the same processes; needs the extra ``cluster``.

A worker runs a spec in a temporary folder and hands the files back. Only the process that the user started writes to
the folder of the report, one folder per spec, so a run counts once even if another worker repeats it after a kill.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.processes import RUN_COMMAND, run_process
from l2o_splat.bench.run_log import LOG_NAME, RunLog
from l2o_splat.bench.spec import RunSpec

RETRIES = 3
"""How often a run is given to another worker after its worker died."""


def run_on_cluster(
    specs: Sequence[RunSpec],
    folder: Path,
    pictures: frozenset[RunSpec],
    address: str,
    cores: int | None = None,
    command: Sequence[str] = RUN_COMMAND,
) -> Iterator[RunSpec]:
    """Run specs on the cluster; yield each spec when its files are in ``folder / spec.folder_name``.

    Args:
        specs: What to run.
        folder: Folder of all runs.
        pictures: Runs whose held-out views are saved.
        address: Address of the cluster, or ``auto`` for the one on this machine.
        cores: Cores of one run; None takes as many as the smallest node has, so that nothing disturbs the clock.
        command: Program to start for a spec.

    Raises:
        BenchError: If Ray is not installed, there is no cluster, or no node has that many cores.
    """
    try:
        import ray
    except ImportError as error:
        raise BenchError("--ray needs Ray, which is not installed: pip install 'l2o_splat[cluster]'.") from error
    started_here = not ray.is_initialized()
    if started_here:
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise BenchError(
                f"No Ray cluster was found at {address} ({error}); start one with `ray start --head`, or leave "
                "--ray out."
            ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        sizes = [int(node["CPU"]) for node in nodes if node.get("CPU")]
        cores = cores or min(sizes)
        if cores > max(sizes):
            raise BenchError(f"--cores-per-run is {cores}, the largest node has {max(sizes)}; give at most that many.")
        gpus = 1 if any(node.get("GPU") for node in nodes) else 0
        work = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD")(_work)
        waiting = {work.remote(spec, spec in pictures, cores, tuple(command)): spec for spec in specs}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            spec = waiting.pop(done)
            target = folder / spec.folder_name
            try:
                _put_in_place(ray.get(done), target)
            except ray.exceptions.RayError as error:
                _note_failure(target, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
            yield spec
    finally:
        if started_here:
            ray.shutdown()


def _work(spec: RunSpec, pictures: bool, cores: int, command: Sequence[str]) -> dict[str, bytes]:
    """Run a spec on a worker; return the contents of its files by relative path."""
    with tempfile.TemporaryDirectory(prefix="l2o-bench-") as name:
        folder = Path(name)
        run_process(spec, folder, pictures, command, cores)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _put_in_place(files: dict[str, bytes], target: Path) -> None:
    """Replace the files of an earlier sweep in one step."""
    arriving = target.with_name(f".{target.name}.arriving")
    shutil.rmtree(arriving, ignore_errors=True)
    for name, content in files.items():
        (arriving / name).parent.mkdir(parents=True, exist_ok=True)
        (arriving / name).write_bytes(content)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(arriving, target)


def _note_failure(target: Path, reason: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with RunLog(target / LOG_NAME) as log:
        log.write("end", status="failed", reason=reason)
