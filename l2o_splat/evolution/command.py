"""``l2o train-controller``: the slow decisions of a run, trained on whole runs. Only a run imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from l2o_splat.evolution.options import EvolutionOptions
from l2o_splat.training.errors import TrainingError


@dataclass
class TrainController:
    """Train a controller: 40 numbers that change rates, momentum, views, image sizes and growth of a run.

    In each generation CMA-ES draws some controllers, lets all of them optimize the same procedural scenes from start to
    end, and moves on by their order. The result is OUT/best.safetensors (and .json with the training record), for
    `ns-train l2o-adam-tuned --schedule.controller OUT/best.safetensors`. OUT/best-frozen is the same without its
    responses to the run, for comparison.

    The same command goes on with a run that was stopped, after its last whole generation.
    """

    out: Path
    """Folder of the run: weights, curve, state."""
    training: EvolutionOptions = field(default_factory=EvolutionOptions)
    """Options that the numbers depend on."""
    workers: int = 1
    """Processes of one thread each that optimize scenes; 0 does it in this one."""

    def run(self) -> None:
        """Train.

        Raises:
            TrainingError: If options do not suit, another process trains into the folder, or no run can be made.
            ResumeError: If the state in the folder does not fit the options.
        """
        if self.workers < 0:
            raise TrainingError(f"--workers is {self.workers}; 0 (none) or more are needed.")
        from l2o_splat.evolution.trainer import BEST_NAME, ControllerTraining
        from l2o_splat.evolution.workers import Workers
        from l2o_splat.files import held_folder

        busy = TrainingError(f"Another process trains into {self.out}; wait for it, or choose another folder.")
        with held_folder(self.out, busy), Workers(self.workers) as workers:
            training = ControllerTraining(self.training, self.out, workers, lambda line: print(line, flush=True))
            try:
                training.run()
            except KeyboardInterrupt:
                print(f"Stopped; the same command goes on after {training.generation} generations.")
                return
        print(f"Trained for {training.generation} generations: {self.out / BEST_NAME}.safetensors")
