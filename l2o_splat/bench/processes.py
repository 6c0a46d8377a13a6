"""One process per spec, so that a failure or lack of memory ends that run alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.methods import Method
from l2o_splat.bench.run_log import LOG_NAME, RunLog, read_log
from l2o_splat.bench.spec import RunSpec
from l2o_splat.system import KILLED, kills_for_memory

RUN_COMMAND = (sys.executable, "-W", "ignore", "-m", "l2o_splat.plugin.bench.run")
"""Command that runs a spec; its first argument is the path of the spec."""

SPEC_NAME, OUTPUT_NAME = "spec.json", "output.txt"

POLL_SECONDS = 0.5


def run_process(
    spec: RunSpec,
    folder: Path,
    pictures: bool,
    command: Sequence[str] = RUN_COMMAND,
    cores: int | None = None,
    on_poll: Callable[[], None] = lambda: None,
) -> None:
    """Run a spec to its end; its log then has an ``end``, whatever happened.

    Args:
        spec: What to run.
        folder: Folder for log, output and pictures; an interrupted run in it is resumed.
        pictures: Save some held-out views.
        command: Program to start.
        cores: Number of threads of the run; None leaves it to torch.
        on_poll: Called twice a second while the process runs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec.write(folder / SPEC_NAME)
    arguments = [*command, str(folder / SPEC_NAME), *(["--pictures"] if pictures else [])]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if cores is not None:
        environment |= {"OMP_NUM_THREADS": str(cores), "NUMBA_NUM_THREADS": str(cores)}
    killed_before = kills_for_memory()
    with (folder / OUTPUT_NAME).open("ab") as output:
        process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while process.poll() is None:
                on_poll()
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if read_log(folder / LOG_NAME).end is None:
        memory = process.returncode == KILLED and kills_for_memory() > killed_before
        status = "out_of_memory" if memory else "failed"
        with RunLog(folder / LOG_NAME) as log:
            log.write("end", status=status, reason=_last_words(process.returncode, memory, folder / OUTPUT_NAME))


def is_finished(folder: Path) -> bool:
    """True if the run in this folder finished; any other one is tried again."""
    end = read_log(folder / LOG_NAME).end
    return end is not None and end["status"] == "ok"


def steps_taken(folder: Path) -> int:
    """Return the number of steps of the run in this folder, read from the end of its log."""
    path = folder / LOG_NAME
    if not path.exists():
        return 0
    with path.open("rb") as log:
        log.seek(max(path.stat().st_size - 4096, 0))
        taken = re.findall(rb'"kind":"step","step":(\d+)', log.read())
    return int(taken[-1]) if taken else 0


def ask(methods: Sequence[Method], dataparsers: Sequence[Sequence[str]], command: Sequence[str] = RUN_COMMAND) -> dict:
    """Ask nerfstudio which methods have a horizon and of which kind they are, and for the environment.

    Returns:
        ``has_horizon`` and ``kinds`` (see :data:`~l2o_splat.bench.methods.Kind`) by label, and ``environment``.

    Raises:
        BenchError: If a method or dataparser is not known, or nerfstudio cannot be imported.
    """
    question = json.dumps({"methods": [asdict(method) for method in methods], "dataparsers": list(dataparsers)})
    result = subprocess.run(
        [*command, "--describe", question], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if result.returncode:
        words = (result.stderr.strip().splitlines() or ["it ended without a message"])[-1]
        raise BenchError(f"nerfstudio cannot be started ({words}); `l2o check` tells what is missing.")
    answer = json.loads(result.stdout.splitlines()[-1])
    if answer["errors"]:
        raise BenchError(" ".join(answer["errors"]))
    return answer


def _last_words(code: int, memory: bool, output: Path) -> str:
    if memory:
        return "The system killed the process because memory ran out; use a smaller --scale."
    if code < 0:
        return f"The process was killed by {signal.Signals(-code).name}."
    lines = output.read_text(errors="replace").strip().splitlines()
    return f"The process ended with status {code}: {lines[-1].strip() if lines else 'no message'}"
