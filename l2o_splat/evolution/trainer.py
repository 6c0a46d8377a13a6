"""Training a controller: CMA-ES on whole runs, with a state after every generation."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from l2o_splat.environment import environment
from l2o_splat.evolution.cma_es import Distribution
from l2o_splat.evolution.options import EvolutionOptions
from l2o_splat.evolution.runs import DB, WholeRuns, log_errors_of
from l2o_splat.evolution.workers import Workers
from l2o_splat.files import write_text_whole, write_whole
from l2o_splat.schedule.controller import IS_CONSTANT, NAMES, Controller
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.record import BEST_NAME, CURVE_NAME, LAST_NAME, LICENCE
from l2o_splat.training.saved_state import ResumeError
from l2o_splat.training.sources import VALIDATION_SEEDS
from l2o_splat.weights.format import WeightsCard, save_weights
from l2o_splat.weights.load import load_weights

STATE_NAME = "state.safetensors"
"""The distribution as tensors; options, time and the best quality as JSON in its metadata."""
FROZEN_NAME = "best-frozen"
"""The best controller without its responses to the scene."""
_METADATA = "training"


class ControllerTraining:
    """Moves a distribution of controllers to where whole runs end with a small error.

    All controllers of a generation run the same scenes, so that only what the controllers do ranks them. The result is
    the mean of the distribution, and the best is chosen on validation scenes among the means so far, that of the start
    included.

    Args:
        options: Everything that the numbers depend on.
        folder: Of the run.
        workers: Make the runs.
        say: Is told a line after each generation.
    """

    def __init__(
        self, options: EvolutionOptions, folder: Path, workers: Workers, say: Callable[[str], object] = print
    ) -> None:
        self.options, self.folder, self._workers, self._say = options, folder, workers, say
        self._trained = IS_CONSTANT if options.numbers == "constants" else np.ones(len(NAMES), dtype=bool)
        """Which of the numbers are trained; the others stay as at the start."""
        start = Controller.neutral()
        if options.begin_with is not None:
            start = Controller.from_weights(load_weights(options.begin_with))
        self._start = start.numbers
        self.distribution = Distribution.around(self._start[self._trained], options.spread)
        self.curve: list[dict[str, float]] = []
        self.best = -math.inf
        """Highest mean held-out PSNR (dB) on the validation scenes so far, over all shares that runs are read at."""
        self.seconds = 0.0
        """Time spent, evaluations included."""
        self._training = WholeRuns(options.runs, options.seed, options.scenes)
        self._validation = WholeRuns(options.runs, 0, options.validation_scenes, VALIDATION_SEEDS)

    @property
    def generation(self) -> int:
        """Generations done."""
        return self.distribution.generation

    @property
    def controller(self) -> Controller:
        """The mean of the distribution."""
        return Controller(self._whole(self.distribution.mean))

    def _whole(self, trained: Float[np.ndarray, " t"]) -> Float[np.ndarray, " d"]:
        """All numbers of a controller, from those that are trained."""
        numbers = self._start.copy()
        numbers[self._trained] = trained
        return numbers

    def run(self) -> None:
        """Train to the end, from the saved state if there is one.

        Raises:
            ResumeError: If the state is damaged, or was saved with other options.
            TrainingError: If all scenes of a generation are unusable, or all its controllers diverge.
        """
        if not self._resume():
            begin = time.perf_counter()
            self._finish_generation({}, begin)
        while self.generation < self.options.generations:
            begin = time.perf_counter()
            candidates = self.distribution.draw(self.options.population, self.options.seed)
            scenes = range(self.generation * self.options.scenes, (self.generation + 1) * self.options.scenes)
            errors = self._errors(self._training, [*map(self._whole, candidates)], scenes).mean(axis=1)
            if np.isnan(errors).all():
                raise TrainingError(
                    f"All controllers of generation {self.generation + 1} diverged; train into another folder with a "
                    "smaller --training.spread."
                )
            charged = errors + self.options.decay * (candidates**2).sum(axis=1)
            self.distribution = self.distribution.updated(candidates, charged)
            found = {"best_db": -DB * np.nanmin(errors), "median_db": -DB * np.nanmedian(errors)}
            self._finish_generation(found | {"spread": self.distribution.spread}, begin)

    def _errors(
        self, runs: WholeRuns, candidates: list[Float[np.ndarray, " d"]], scenes: range
    ) -> Float[np.ndarray, "p shares"]:
        """Log error of each controller at each share of the budget that runs are read at, mean over the scenes that can
        be used; NaN if a run of it diverged."""
        # The longest runs first, so that no worker ends with one.
        calls = [(runs, numbers, scene) for scene in reversed(scenes) for numbers in candidates]
        values = self._workers.results(log_errors_of, calls)
        rows = [values[first : first + len(candidates)] for first in range(0, len(values), len(candidates))]
        usable = [row for row in rows if None not in row]
        if not usable:
            raise TrainingError(
                f"No run can start from any of the scenes {scenes.start} to {scenes.stop - 1}; raise "
                "--training.runs.ranges.num-points or num-views, or --training.scenes."
            )
        return np.array(usable, dtype=np.float64).mean(axis=0)

    def _finish_generation(self, found: dict[str, float], begin: float) -> None:
        """Evaluate if it is time, write curve and weights, then the state: what was written twice stays the same."""
        line = {"generation": self.generation} | found
        done = self.generation == self.options.generations
        if done or self.generation % self.options.validate_every == 0:
            pair = [self.controller.numbers, self.controller.frozen().numbers]
            errors = -DB * self._errors(self._validation, pair, range(self.options.validation_scenes))
            line |= {"psnr": errors[0].mean(), "psnr_frozen": errors[1].mean()}
            for share, psnr in zip(self.options.runs.read_at, errors[0], strict=True):
                line[f"psnr_at_{share:g}"] = psnr
        self.seconds += time.perf_counter() - begin
        line = {name: round(float(value), 4) for name, value in line.items() if math.isfinite(value)}
        line |= {"generation": self.generation, "seconds": round(self.seconds, 1)}
        self.curve.append(line)
        write_text_whole(self.folder / CURVE_NAME, "".join(json.dumps(each) + "\n" for each in self.curve))
        if "psnr" in line:
            self._save(self.controller, LAST_NAME)
            if line["psnr"] > self.best:
                self.best = line["psnr"]
                self._save(self.controller, BEST_NAME)
                self._save(self.controller.frozen(), FROZEN_NAME)
        write_whole(self.folder / STATE_NAME, self._write_state)
        self._say(_told(line, self.options.generations))

    def _save(self, controller: Controller, name: str) -> None:
        card = WeightsCard(
            "controller",
            {"numbers": list(NAMES)},
            licence=LICENCE,
            training={
                "generations": self.generation,
                "hours": round(self.seconds / 3600, 3),
                "options": asdict(self.options),
                "environment": (known := environment()),
                "curve": self.curve,
            },
            source=known["command"],
        )
        save_weights(self.folder / name, controller.to_weights(card))

    def _write_state(self, path: Path) -> None:
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in self.distribution.arrays().items()}
        known = {"options": asdict(self.options), "curve": self.curve, "best": self.best, "seconds": self.seconds}
        save_file(tensors, path, metadata={_METADATA: json.dumps(known)})

    def _resume(self) -> bool:
        """Go on from the saved state; False if there is none."""
        path = self.folder / STATE_NAME
        if not path.exists():
            return False
        try:
            with safe_open(path, "numpy") as file:
                known = json.loads(file.metadata()[_METADATA])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            distribution = Distribution.of_arrays(arrays)
            saved = known["options"]
            self.curve, self.best, self.seconds = known["curve"], known["best"], known["seconds"]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ResumeError(
                f"{path} is no state of a controller's training ({type(error).__name__}: {error}); remove it, or train "
                "into another folder."
            ) from error
        # More generations only make a training longer.
        wanted: dict[str, Any] = json.loads(json.dumps(asdict(self.options)))
        changed = [name for name in wanted if name != "generations" and saved.get(name) != wanted[name]]
        if changed:
            raise ResumeError(
                f"{path} was trained with other options ({ {name: saved.get(name) for name in changed} }, now "
                f"{ {name: wanted[name] for name in changed} }); go on with the same ones, or train into another "
                "folder."
            )
        self.distribution = distribution
        return True


def _told(line: dict[str, float], total: int) -> str:
    text = f"Generation {line['generation']}/{total}, {line['seconds']:.0f} s"
    if "best_db" in line:
        text += f": best {line['best_db']:.2f} dB, median {line['median_db']:.2f} dB on its scenes"
    if "psnr" in line:
        text += f"; {line['psnr']:.3f} dB on validation scenes, {line['psnr_frozen']:.3f} dB frozen"
    return text
