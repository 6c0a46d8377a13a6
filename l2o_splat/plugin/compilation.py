"""Kernels that are not on disk yet are compiled in other processes, while this one reads the capture."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.initializers.dense.trial import compile_dense_start
from l2o_splat.losses.trial import compile_loss
from l2o_splat.optim.rule import Needs
from l2o_splat.optim.trial import compile_adam, compile_colour_step, compile_gain
from l2o_splat.reduction.trial import compile_reduction
from l2o_splat.rendering.trial import (
    compile_camera_gradients,
    compile_evidence,
    compile_exposure,
    compile_rasterizer,
)
from l2o_splat.system import usable_cores
from l2o_splat.weights.format import WeightsCard

TRIALS: tuple[Callable[[], object], ...] = (
    compile_rasterizer,
    compile_loss,
    compile_reduction,
    compile_evidence,
)
"""Functions that call the kernels of a room once, with tiny inputs of the types that a run has.

Each stands in the folder of its kernels, so that an edit there makes it run again.
"""


def trials_of_rule(cards: Sequence[WeightsCard], needs: Needs) -> tuple[Callable[[], object], ...]:
    """The same for rules with weights of these cards and these needs."""
    learned = (compile_gain,) if any(card.system == "gain" for card in cards) else ()
    colours = (compile_colour_step,) if needs.evidence else ()
    return (compile_adam, *colours, *learned)


def trials_of_start(source: str) -> tuple[Callable[[], object], ...]:
    """The same for a source of ``--pipeline.initialization.source``, beside ``TRIALS``."""
    # Networks that the points guide take depths from the kernels of the dense start.
    return (compile_dense_start,) if source in ("dense", "predicted", "resplat", "diff3r") else ()


def trials_of_views(refines_poses: bool, exposed: bool) -> tuple[Callable[[], object], ...]:
    """The same for what a run learns of its training views, their poses or exposures, beside ``TRIALS``."""
    poses = (compile_camera_gradients,) if refines_poses else ()
    return (*poses, *((compile_exposure,) if exposed else ()))


_PROGRAM = """
import sys
del sys.path[0]  # The current folder, where anything may lie.
from l2o_splat.plugin import compilation
compilation.run_trials(sys.argv[1:])
"""


@contextmanager
def compiling(device: str, trials: Sequence[Callable[[], object]] = TRIALS) -> Iterator[None]:
    """Compile the kernels of the CPU beside the work of the ``with`` block, and wait for them at its end.

    Nothing is done if they are on disk already, or could not be kept there. With a single core this process compiles
    them at the end of the block, before any time is measured. Whatever goes wrong in the other processes shows when
    this one calls the kernels.

    Args:
        device: Device of the run; on any other one than ``cpu`` nothing is compiled.
        trials: Functions that call kernels.
    """
    missing = _missing(trials) if str(device) == "cpu" else []
    if missing:
        _tell_why_it_takes_so_long()
    cores = usable_cores()
    processes = _start(missing, cores) if cores > 1 else []
    try:
        yield
        if cores == 1:
            run_trials(missing)
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            process.kill()
            process.wait()


@cache
def _tell_why_it_takes_so_long() -> None:
    """Once in a process: trainer, pipeline and start each compile what they need."""
    CONSOLE.log("Machine code for this processor is compiled, once after an installation: a minute or two.")


def run_trials(names: Sequence[str]) -> None:
    """Run functions, each named ``module:function``, and note that their machine code is on disk now."""
    for name in names:
        module, _, function = name.partition(":")
        trial = getattr(importlib.import_module(module), function)
        trial()
        _note(trial).touch()


def _missing(trials: Sequence[Callable[[], object]]) -> list[str]:
    """Names of the trials whose machine code is not on disk, but can be kept there."""
    return [
        f"{trial.__module__}:{trial.__name__}"
        for trial in trials
        if _folder(trial) is not None and not _note(trial).exists()
    ]


def _folder(trial: Callable[[], object]) -> Path | None:
    # Only here: `ns-train --help` imports this module and has no use for numba.
    from l2o_splat.kernel_cache import machine_code_folder

    return machine_code_folder(trial)


def _note(trial: Callable[[], object]) -> Path:
    """The file that says that a trial has run with the sources and the machine of now."""
    return _folder(trial) / f"{trial.__name__}.done"


def _start(names: Sequence[str], processes: int) -> list[subprocess.Popen]:
    # The same sources as here, wherever they are.
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *names[first::processes]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for first in range(min(processes, len(names)))
    ]
