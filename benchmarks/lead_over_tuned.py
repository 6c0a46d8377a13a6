"""How far learn2splat leads tuned Adam after so many steps: ``python benchmarks/lead_over_tuned.py --data DIR ...``.

``learn2splat`` is run once. ``l2o-adam-tuned`` is run anew for each length, its rates decaying over just as many steps.
Prints markdown tables of the lead at equal steps and at equal time, from reports of ``l2o bench`` that stay in OUT; the
same command goes on where it was interrupted. Compare times only from a machine that did nothing else.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from l2o_splat.bench.command import bench
from l2o_splat.bench.measures import Results
from l2o_splat.bench.results import read_results
from l2o_splat.bench.run import Run
from l2o_splat.bench.spec import REPORTED_STEPS
from l2o_splat.environment import command

LEARNED, TUNED, PLAIN = "learn2splat", "l2o-adam-tuned", "l2o-adam"


@dataclass
class Options:
    """What to compare on."""

    data: tuple[str, ...]
    """Captures, as for l2o bench."""
    out: Path
    """Folder for the reports."""
    lengths: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000, 2000)
    """Steps after which the two are compared."""
    plain_lengths: tuple[int, ...] = (20, 50, 100)
    """Steps after which learn2splat is compared with l2o-adam as well."""
    seeds: int = 2
    scale: float = 0.25
    """Scale of the photographs."""
    weights: str | None = None
    """Weights of learn2splat; None takes those of the package."""
    cores_per_run: int | None = None
    """Threads of each run."""


def measure(options: Options, method: str, steps: int, name: str) -> Results:
    """A report of one method, made now or earlier."""
    out = options.out / name
    bench(
        options.data,
        (method,),
        steps,
        scale=options.scale,
        seeds=options.seeds,
        out=out,
        images=False,
        cores_per_run=options.cores_per_run,
    )
    return read_results(out)


def psnr_after(run: Run, steps: int) -> float:
    """Held-out PSNR (dB) after a number of steps at which the run was evaluated."""
    return next(point.psnr for point in run.curve if point.step == steps)


def psnr_at(run: Run, seconds: float) -> float:
    """Held-out PSNR (dB) at a time on the run's clock, in a straight line between evaluations."""
    for before, after in zip(run.curve, run.curve[1:], strict=False):
        if before.seconds <= seconds <= after.seconds:
            share = (seconds - before.seconds) / (after.seconds - before.seconds)
            return before.psnr + share * (after.psnr - before.psnr)
    if seconds < run.curve[0].seconds:
        return run.curve[0].psnr
    return run.curve[-1].psnr


def lost(run: Run) -> float:
    """How far PSNR (dB) has fallen from its best evaluation to the last."""
    return max(point.psnr for point in run.curve) - run.curve[-1].psnr


def table(title: str, scenes: list[str], columns: list[str], cell: Callable[[str, int], str]) -> str:
    """A markdown table with one row per scene, and their mean."""
    lines = [f"| {title} | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for scene in [*scenes, "mean"]:
        lines.append(f"| {scene} | " + " | ".join(cell(scene, i) for i in range(len(columns))) + " |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run what is missing, and print."""
    if unknown := sorted({*options.lengths, *options.plain_lengths} - {*REPORTED_STEPS}):
        sys.exit(f"l2o bench does not report quality after {unknown} steps; choose among {REPORTED_STEPS[1:]}.")
    rivals = {length: measure(options, TUNED, length, f"tuned-{length}") for length in options.lengths}
    plain = measure(options, PLAIN, max(options.plain_lengths), "plain")
    named = "" if options.weights is None else f" --optimizers.gaussians.optimizer.weights {options.weights}"
    learned = measure(options, f"{LEARNED}={LEARNED}{named}", max(options.lengths), LEARNED)
    reports = [*rivals.values(), plain, learned]
    failed = [(run.scene, run.method, run.reason) for report in reports for run in report.runs if run.status != "ok"]
    if failed:
        sys.exit(f"These runs failed, so nothing is compared: {failed}")
    scenes = list(dict.fromkeys(run.scene for run in learned.runs))

    def cells(values: Callable, lengths: tuple[int, ...], against: Callable) -> Callable:
        """Value of learn2splat and its lead, means over seeds, and over scenes in the last row."""

        def cell(scene: str, column: int) -> str:
            length, own, lead = lengths[column], [], []
            for run in learned.runs:
                if scene not in (run.scene, "mean"):
                    continue
                rival = next(r for r in against(length).runs if (r.scene, r.seed) == (run.scene, run.seed))
                mine, theirs = values(run, rival, length)
                own.append(mine)
                lead.append(mine - theirs)
            return f"{statistics.fmean(own):.2f} ({statistics.fmean(lead):+.2f})"

        return cell

    print(f"`{command()}`, commit {learned.environment['commit']}, {learned.environment['date']}, ", end="")
    print(f"{learned.environment['machine']}. Held-out PSNR of {LEARNED}, dB; in brackets its lead.\n")
    columns = [str(length) for length in options.lengths]
    at_steps = cells(lambda run, rival, n: (psnr_after(run, n), psnr_after(rival, n)), options.lengths, rivals.get)
    print(table(f"steps, against {TUNED}", scenes, columns, at_steps) + "\n")
    at_time = cells(
        lambda run, rival, n: (psnr_at(run, rival.curve[-1].seconds), rival.curve[-1].psnr), options.lengths, rivals.get
    )
    print(table(f"time of so many steps of {TUNED}", scenes, columns, at_time) + "\n")
    at_plain = cells(
        lambda run, rival, n: (psnr_after(run, n), psnr_after(rival, n)), options.plain_lengths, lambda _: plain
    )
    print(table(f"steps, against {PLAIN}", scenes, [str(n) for n in options.plain_lengths], at_plain) + "\n")
    longest = max(options.lengths)
    at_end = cells(lambda run, rival, n: (lost(run), lost(rival)), (longest,), rivals.get)
    print(table(f"lost since best (more than {TUNED})", scenes, [f"after {longest} steps"], at_end) + "\n")
    shares = {
        scene: statistics.fmean(
            run.step_seconds["update"] / (run.step_seconds["render"] + run.step_seconds["backward"])
            for run in learned.runs
            if run.scene == scene
        )
        for scene in scenes
    }
    print("Update over render and backward: " + ", ".join(f"{scene} {share:.2f}" for scene, share in shares.items()))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
