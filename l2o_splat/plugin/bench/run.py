"""One run of ``l2o bench`` in a process of its own.

``python -m l2o_splat.plugin.bench.run FOLDER/spec.json [--pictures]`` runs what the spec says and writes
``FOLDER/log.jsonl``; ``--describe`` prints what a sweep must know of its methods before it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path

import torch

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.run import Status
from l2o_splat.bench.run_log import LOG_NAME, RunLog
from l2o_splat.bench.spec import RunSpec
from l2o_splat.plugin.bench.config import describe
from l2o_splat.plugin.bench.measured_ply import measure_ply
from l2o_splat.plugin.bench.measured_run import MeasuredRun, UnavailableError
from l2o_splat.weights import WeightsError


def run(spec: RunSpec, folder: Path, pictures: bool) -> None:
    """Run the spec, or resume it from its last checkpoint; the log ends with the outcome."""
    with RunLog(folder / LOG_NAME) as log:
        try:
            if spec.ply is None:
                MeasuredRun(spec, folder, log, pictures).train()
            else:
                measure_ply(spec, folder, log, pictures)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            status, reason = explain(error)
            log.write("end", status=status, reason=reason)
        # After a failure too: the run would fail again from the same checkpoint.
        shutil.rmtree(folder / "train", ignore_errors=True)


def explain(error: BaseException) -> tuple[Status, str]:
    """Return the status of a run that an error ended, and one sentence about it."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    text = " ".join(str(error).split())
    if any(isinstance(cause, (UnavailableError, WeightsError)) for cause in chain):
        return "unavailable", text
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        return "out_of_memory", text or "out of memory"
    if isinstance(error, EOFError):
        return "failed", (
            "The dataparser asked a question, and nobody is there to answer; answer it once with ns-train (it may "
            "write to the capture's folder, which a benchmark does not)."
        )
    says_why = isinstance(error, BenchError) or (isinstance(error, SystemExit) and isinstance(error.code, str))
    return "failed", text if says_why else f"{type(error).__name__}: {text}"


def _end_with(parent: int) -> None:
    """End this process when its parent ends: nobody would read the run, and another process may start it again."""

    def wait_for_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Entry point; :mod:`l2o_splat.bench.processes` starts it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path, nargs="?", help="spec.json in the folder of the run")
    parser.add_argument("--pictures", action="store_true", help="save some held-out views")
    parser.add_argument("--describe", metavar="JSON", help="print what the sweep must know")
    options = parser.parse_args(arguments)
    _end_with(os.getppid())
    if options.describe:
        print(json.dumps(describe(json.loads(options.describe))))
    else:
        run(RunSpec.read(options.spec), options.spec.parent, options.pictures)


if __name__ == "__main__":
    main(sys.argv[1:])
