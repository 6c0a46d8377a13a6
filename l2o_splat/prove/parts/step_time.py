"""What a learned step costs beside a step of Adam."""

from __future__ import annotations

import statistics

from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged
from l2o_splat.prove.training_step import RULES, TrainingSteps, photographed

GAUSSIANS, VIEWS, WIDTH, HEIGHT, STEPS = 139_000, 8, 780, 520, 40
TINY = (300, 2, 32, 24, 4)
WARM_UP = 3
MOST = 1.3
CLAIM = f"A learned step takes at most {MOST:g} times an Adam step at {GAUSSIANS:,} Gaussians"
FINITE = "Every number of the scene stays finite in these steps"


def measure(setting: Setting) -> Numbers:
    """Milliseconds of every step of both rules, on the same scene and views."""
    gaussians, views, width, height, steps = TINY if setting.rehearsal else (GAUSSIANS, VIEWS, WIDTH, HEIGHT, STEPS)
    capture = photographed(views, width, height, gaussians)
    found: Numbers = {"gaussians": gaussians, "views": [views, height, width]}
    for rule in RULES:
        training = TrainingSteps(rule, gaussians, capture, setting.device)
        training.milliseconds(WARM_UP)
        found[rule] = {"milliseconds": training.milliseconds(steps), "finite": training.finite()}
    return found


def judge(numbers: Numbers) -> list[Judgement]:
    adam, learned = (statistics.median(numbers[rule]["milliseconds"]) for rule in RULES)
    means = [statistics.fmean(numbers[rule]["milliseconds"]) for rule in RULES]
    ratio = learned / adam
    found = (
        f"{ratio:.2f} times: {learned:.2f} ms against {adam:.2f} ms, medians of "
        f"{len(numbers['adam']['milliseconds'])} steps after the first {WARM_UP} (means: {means[1] / means[0]:.2f} "
        "times)"
    )
    finite = [rule for rule in RULES if not numbers[rule]["finite"]]
    return [
        judged(CLAIM, ratio <= MOST, found),
        judged(FINITE, not finite, f"not with {', '.join(finite)}" if finite else "with both rules"),
    ]


STEP_TIME = Part(
    "step-time",
    f"What a learned step costs beside an Adam step at {GAUSSIANS:,} Gaussians and 8 views of 520 x 780.",
    (CLAIM, FINITE),
    2,
    measure,
    judge,
)
