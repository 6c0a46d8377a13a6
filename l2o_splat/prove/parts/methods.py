"""All methods for some steps on the card, and the same on the processor."""

from __future__ import annotations

import math
import os

from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged, undecided
from l2o_splat.prove.runs import capture_of, numbers_of, run_once, scale_to, spec_of

RULE = "--optimizers.gaussians.optimizer"
OPTIONS: dict[str, tuple[str, ...]] = {
    "l2o-adam": (),
    "l2o-adam-tuned": (),
    "learn2splat": (),
    # As in the demo: its updates, then the learned optimizer.
    "resplat": (f"{RULE}.finish-with", "learn2splat", f"{RULE}.finish-after", "4"),
    "diff3r": (),
}
STEPS = 60
REHEARSED = ("l2o-adam-tuned",)
REHEARSED_STEPS = 2
LONGER_SIDE = 240
"""Of the photographs of a given capture, pixels: the processor has to draw them too."""
LOSS = 0.3
"""dB of held-out PSNR that a run on the card may be behind one on the processor."""


def claim_of(method: str) -> str:
    return f"{method} trains for {STEPS} steps on the card and ends at most {LOSS:g} dB below the processor"


def measure(setting: Setting) -> Numbers:
    """The run of every method on the card, then on the processor."""
    methods, steps = (REHEARSED, REHEARSED_STEPS) if setting.rehearsal else (tuple(OPTIONS), STEPS)
    capture = capture_of(setting)
    scale = scale_to(capture.data, LONGER_SIDE)
    found: Numbers = {}
    for where in ("card", "processor"):
        if where == "processor":
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        for method in methods:
            spec = spec_of(capture, method, OPTIONS[method], steps=steps, horizon=steps, scale=scale)
            run = run_once(spec, setting.work("methods") / where)
            found.setdefault(method, {})[where] = numbers_of(run)
    return found


def judge(numbers: Numbers) -> list[Judgement]:
    return [_judge(method, numbers[method]) for method in OPTIONS if method in numbers]


def _judge(method: str, runs: Numbers) -> Judgement:
    claim, card, processor = claim_of(method), runs["card"], runs["processor"]
    if card["status"] != "ok":
        return judged(claim, False, f"{card['status'].replace('_', ' ')}: {card['reason']}")
    reached = card["curve"][-1][2]
    if not math.isfinite(reached):
        return judged(claim, False, f"PSNR {reached}")
    if processor["status"] != "ok":
        return undecided(claim, f"{reached:.2f} dB; no run on the processor to compare with: {processor['reason']}")
    expected = processor["curve"][-1][2]
    found = f"{reached:.2f} dB, {expected:.2f} dB on the processor, after {card['steps']} steps"
    return judged(claim, reached >= expected - LOSS, found)


METHODS = Part(
    "methods",
    "Whether every method trains on the card, in nerfstudio's own trainer, as well as on the processor.",
    tuple(map(claim_of, OPTIONS)),
    5,
    measure,
    judge,
    asks=("data",),
)
