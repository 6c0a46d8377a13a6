"""What gains of single Gaussians are worth under a controller: ``python benchmarks/local_gains.py --help``.

Each field's step of each Gaussian is multiplied by the exponential of a sum of features times coefficients. Features
are those that a network of local decisions could see: of the gradients (signal to noise, size), of the Gaussian (scale,
opacity, elongation, age) and of the last event of growth (visibility, mean error, number of views); each is
standardised over the scene, so that gains change which Gaussians move, not how fast the scene does.

Runs on procedural scenes come in pairs with random coefficients of opposite signs. The difference of a pair tells how
their sum changes held-out PSNR; a linear model with a normal prior, whose width the data choose, tells that of each
coefficient. What it finds is then tried at several lengths on other scenes. Clock and scenes are those of the training
of controllers (:mod:`l2o_splat.evolution`), so that other work on the machine changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from l2o_splat.environment import command
from l2o_splat.evolution.budgeted_run import BudgetedRun
from l2o_splat.evolution.options import RunOptions
from l2o_splat.evolution.runs import WholeRuns
from l2o_splat.evolution.workers import Workers
from l2o_splat.files import write_text_whole
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.schedule.controller import Controller
from l2o_splat.training.errors import UnusableCaptureError
from l2o_splat.training.sources import VALIDATION_SEEDS
from l2o_splat.weights import load_weights

OF_GRADIENTS = ("signal", "size")
OF_GAUSSIANS = ("scale", "opacity", "elongation", "age")
OF_EVENTS = ("visibility", "error", "views")
FEATURES = (*OF_GRADIENTS, *OF_GAUSSIANS, *OF_EVENTS)
COEFFICIENTS = tuple(f"{name}.{feature}" for name in FIELDS for feature in FEATURES)
FARTHEST = 2.5
"""Features are clamped to so many standard deviations."""
LARGEST_LOG_GAIN = 1.4
PRIORS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
"""Standard deviations of the prior that the data choose from, dB per unit."""
NOISES = (0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4)
"""The same for the difference of a pair."""
SHOWN = 12
"""Coefficients in the table."""


@dataclass
class Options:
    """What is tried."""

    controller: str = "controller-mini"
    """Weights of the controller that all runs have."""
    pairs: int = 100
    """Pairs of runs, each on a scene of its own."""
    spread: float = 0.25
    """Standard deviation of the coefficients."""
    lengths: tuple[float, ...] = (0.4, 0.8)
    """Lengths of the direction that is found, at which it is tried."""
    scenes: int = 12
    """Other scenes on which it is tried."""
    seed: int = 0
    """Seed of coefficients and scenes."""
    workers: int = 0
    """Processes; 0 makes the runs in this one."""
    runs: RunOptions = field(default_factory=lambda: RunOptions(budgets=(15.0, 300.0), read_at=(0.3, 1.0)))
    """The runs."""
    out: Path = Path("outputs/local_gains.json")
    """Results."""


class LocalRun(BudgetedRun):
    """A run whose steps have gains for single Gaussians."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.coefficients: Float[Tensor, "6 features"] = torch.zeros(len(FIELDS), len(FEATURES))
        self._seen: dict[str, Float[Tensor, " n"]] = {}
        """Features of the last event of growth; none before the first."""

    def _move(self) -> None:
        optimizer = self.optimizer
        if optimizer.rule_state is None or not self.coefficients.any():
            optimizer.step()
            return
        with torch.no_grad():
            log_gains = [
                (features @ own).clamp(-LARGEST_LOG_GAIN, LARGEST_LOG_GAIN)
                for features, own in zip(self._features(), self.coefficients, strict=True)
            ]
            before = [value.clone() for _, value in optimizer.gaussians.items()]
            optimizer.step()
            for (_, value), old, log_gain in zip(optimizer.gaussians.items(), before, log_gains, strict=True):
                value.copy_(old + (value - old) * log_gain.exp().view(-1, *[1] * (value.ndim - 1)))

    def _features(self) -> list[Float[Tensor, "n features"]]:
        """The features of every Gaussian, one table for each field."""
        gaussians, rows = self.optimizer.gaussians, self.optimizer.rule_state
        nothing = torch.zeros(len(gaussians))
        shared = dict.fromkeys(OF_EVENTS, nothing) | self._seen | _of_gaussians(gaussians)
        shared["age"] = standardised(self.optimizer.insight()["age"].float().log1p())
        found = []
        for name in FIELDS:
            first, second = (rows[f"{moment}.{name}"].flatten(1) for moment in ("exp_avg", "exp_avg_sq"))
            size = (second.sum(dim=1) + 1e-30).log()
            own = {"signal": standardised((first.square().sum(dim=1) + 1e-30).log() - size), "size": standardised(size)}
            found.append(torch.stack([(own | shared)[feature] for feature in FEATURES], dim=1))
        return found

    def _grow_if_due(self, scale: float, drawn: RasterSettings) -> None:
        if self.schedule.event_before(self.step, self.views_per_step) is None:
            return
        optimizer, resize = self.optimizer, self.optimizer.resize
        indices = self.sampler.ahead(self.step, self.schedule.views_looked_at(self.views_per_step))
        photographs = self._photographs.photographs(indices, scale)
        seen = rendered_loss(optimizer.gaussians, photographs, drawn, evidence=("error",)).evidence
        mean_error = torch.where(seen.visibility > 0, seen.error / seen.visibility.clamp(min=1e-9), 0)
        logs = {"visibility": seen.visibility + 1, "error": mean_error + 1e-4, "views": seen.views.float() + 1}

        def resize_and_remember(gaussians: Gaussians, source: Tensor, *others: Tensor, **named: Tensor) -> None:
            self._seen = {name: standardised(values.log())[source] for name, values in logs.items()}
            resize(gaussians, source, *others, **named)

        optimizer.resize = resize_and_remember
        super()._grow_if_due(scale, drawn)
        del optimizer.resize


def _of_gaussians(gaussians: Gaussians) -> dict[str, Float[Tensor, " n"]]:
    scales = gaussians.scales
    return {
        "scale": standardised(scales.mean(dim=1)),
        "opacity": standardised(gaussians.opacities[:, 0]),
        "elongation": standardised(scales.amax(dim=1) - scales.amin(dim=1)),
    }


def standardised(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """In standard deviations from the mean, clamped; zeros if all are equal."""
    deviation = values.std() if len(values) > 1 else values.new_tensor(0.0)
    if not deviation > 1e-6:
        return torch.zeros_like(values)
    return ((values - values.mean()) / deviation).clamp(-FARTHEST, FARTHEST)


def psnr_of(runs: WholeRuns, numbers: np.ndarray, coefficients: np.ndarray, index: int) -> list[float] | None:
    """Held-out PSNR (dB) of a run at each share of its budget that runs are read at; None if it cannot be made."""
    try:
        run = runs.run(Controller(numbers), index, LocalRun)
        run.coefficients = torch.from_numpy(coefficients).float().view(len(FIELDS), -1)
        return run.psnr_at(runs.options.read_at)
    except (UnusableCaptureError, FloatingPointError):
        return None


@dataclass(frozen=True)
class Linear:
    """What is known of the coefficients."""

    mean: Float[np.ndarray, " d"]
    """dB per unit."""
    error: Float[np.ndarray, " d"]
    """Standard deviation of that."""
    prior: float
    noise: float


def fitted(coefficients: Float[np.ndarray, "p d"], leads: Float[np.ndarray, " p"]) -> Linear:
    """The posterior of a linear model whose prior and noise have the highest likelihood.

    Args:
        coefficients: Of the first run of each pair.
        leads: Half of its lead over the second one, dB.
    """

    def log_likelihood(prior: float, noise: float) -> float:
        covariance = prior**2 * coefficients @ coefficients.T + noise**2 * np.eye(len(leads))
        return -leads @ np.linalg.solve(covariance, leads) - np.linalg.slogdet(covariance)[1]

    prior, noise = max(((p, n) for p in PRIORS for n in NOISES), key=lambda pair: log_likelihood(*pair))
    precision = coefficients.T @ coefficients / noise**2 + np.eye(coefficients.shape[1]) / prior**2
    mean = np.linalg.solve(precision, coefficients.T @ leads / noise**2)
    return Linear(mean, np.sqrt(np.diag(np.linalg.inv(precision))), prior, noise)


def main(options: Options) -> None:
    """Find the direction, try it, and print both."""
    torch.set_num_threads(1)
    numbers = Controller.from_weights(load_weights(options.controller)).numbers
    drawn = np.random.default_rng(options.seed).standard_normal((options.pairs, len(COEFFICIENTS))) * options.spread
    searched = WholeRuns(options.runs, options.seed, min(options.pairs, 6))
    tried = WholeRuns(options.runs, options.seed, options.scenes, VALIDATION_SEEDS)
    with Workers(options.workers) as workers:
        calls = [(searched, numbers, sign * own, index) for index, own in enumerate(drawn) for sign in (1, -1)]
        found = workers.results(psnr_of, calls)
        pairs = list(zip(found[::2], found[1::2], strict=True))
        usable = [index for index, pair in enumerate(pairs) if None not in pair]
        leads = np.array([np.mean(np.subtract(*pairs[index])) / 2 for index in usable])
        linear = fitted(drawn[usable], leads)
        direction = linear.mean / max(np.linalg.norm(linear.mean), 1e-12)
        lengths = (0.0, *options.lengths)
        calls = [(tried, numbers, length * direction, index) for index in range(options.scenes) for length in lengths]
        values = workers.results(psnr_of, calls)
    rows = [values[first : first + len(lengths)] for first in range(0, len(values), len(lengths))]
    kept = np.array([row for row in rows if None not in row])
    result = {
        "command": command(),
        "pairs": len(usable),
        "prior": linear.prior,
        "noise": linear.noise,
        "coefficients": dict(zip(COEFFICIENTS, linear.mean.tolist(), strict=True)),
        "errors": dict(zip(COEFFICIENTS, linear.error.tolist(), strict=True)),
        "lengths": lengths,
        "psnr": kept.tolist(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(options.out, json.dumps(result, indent=1))
    print(tables(linear, lengths, kept, options))


def tables(linear: Linear, lengths: tuple[float, ...], kept: Float[np.ndarray, "s l shares"], options: Options) -> str:
    """The strongest coefficients, and what the direction is worth."""
    lines = [
        f"`{command()}`",
        f"\nPrior {linear.prior:g} dB per unit, noise of a pair {linear.noise:g} dB.\n",
        "| coefficient | dB per unit | standard errors |",
        "|---|---:|---:|",
    ]
    for place in np.argsort(-np.abs(linear.mean / linear.error))[:SHOWN]:
        mean, error = linear.mean[place], linear.error[place]
        lines.append(f"| {COEFFICIENTS[place]} | {mean:+.2f} | {mean / error:+.1f} |")
    shares = options.runs.read_at
    lines += [
        f"\nOn {len(kept)} other scenes, lead (standard error), dB:\n",
        "| length | " + " | ".join(f"{share:g} of the budget" for share in shares) + " |",
        "|---" * (len(shares) + 1) + "|",
    ]
    for place, length in enumerate(lengths):
        lead = kept[:, place] - kept[:, 0]
        error = lead.std(axis=0) / max(len(kept), 1) ** 0.5
        cells = [f"{mean:+.2f} ({wide:.2f})" for mean, wide in zip(lead.mean(axis=0), error, strict=True)]
        lines.append(f"| {length:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Options))
