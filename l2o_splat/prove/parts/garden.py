"""The published curve of Learn2Splat on the garden of Mip-NeRF 360."""

from __future__ import annotations

from l2o_splat.prove.errors import UndecidedError
from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged, undecided
from l2o_splat.prove.runs import numbers_of, run_once, scale_to, spec_of
from l2o_splat.scenes.capture_names import find_capture

PUBLISHED = {0: 13.87, 10: 21.32, 50: 23.48, 100: 23.99, 500: 24.66, 2000: 24.92}
"""Held-out PSNR (dB) after steps, with 139,000 Gaussians (repository autonomousvision/learn2splat, quick start)."""
TOLERANCE = 0.5
"""dB: the published photographs were cropped to 520 x 780, ours are scaled to a height of 520."""
HEIGHT = 520
WEIGHTS = ("--optimizers.gaussians.optimizer.weights", "learn2splat")
REHEARSED_STEPS = 2


def claim_of(step: int) -> str:
    if step == 0:
        return f"garden starts at {PUBLISHED[0]} dB, to {TOLERANCE:g} dB"
    return f"garden has {PUBLISHED[step]} dB after {step} steps of the official Learn2Splat, less {TOLERANCE:g} at most"


def missing(setting: Setting) -> str:
    return "" if setting.garden else "--garden DIR, the folder of Mip-NeRF 360 garden"


def measure(setting: Setting) -> Numbers:
    """One run with the official weights; with the weights of the package in a rehearsal.

    Raises:
        UndecidedError: If the weights cannot be had, or the run did not come to its end.
    """
    capture = find_capture(str(setting.garden))
    steps = REHEARSED_STEPS if setting.rehearsal else max(PUBLISHED)
    scale = scale_to(setting.garden, HEIGHT, of_height=True)
    options = () if setting.rehearsal else WEIGHTS
    spec = spec_of(capture, "learn2splat", options, steps=steps, horizon=steps, scale=scale)
    run = run_once(spec, setting.work("garden"))
    if run.status in ("unavailable", "pending"):
        raise UndecidedError(run.reason)
    return numbers_of(run)


def judge(numbers: Numbers) -> list[Judgement]:
    reached = {step: psnr for step, _, psnr in numbers["curve"]}
    judgements = []
    for step, published in PUBLISHED.items():
        claim = claim_of(step)
        if step in reached:
            low = reached[step] >= published - TOLERANCE
            high = step > 0 or reached[step] <= published + TOLERANCE
            judgements.append(judged(claim, low and high, f"{reached[step]:.2f} dB"))
        elif numbers["status"] == "ok":
            judgements.append(undecided(claim, f"the run had {numbers['steps']} steps"))
        else:
            judgements.append(judged(claim, False, f"{numbers['status'].replace('_', ' ')}: {numbers['reason']}"))
    return judgements


GARDEN = Part(
    "garden",
    "Whether the official Learn2Splat reaches its published curve on Mip-NeRF 360 garden.",
    tuple(map(claim_of, PUBLISHED)),
    7,
    measure,
    judge,
    missing=missing,
    asks=("garden",),
)
