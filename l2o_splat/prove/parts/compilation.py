"""gsplat compiles its kernels at the first image."""

from __future__ import annotations

import traceback

from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged

CLAIM = "gsplat compiles and draws an image of one Gaussian, with a gradient"


def measure(setting: Setting) -> Numbers:
    """Seconds of the first and of the second image, or the error that ended it."""
    from l2o_splat.rendering.trial import draw_trial_image

    try:
        return {"first_seconds": draw_trial_image(setting.device), "next_seconds": draw_trial_image(setting.device)}
    except (ImportError, RuntimeError, OSError) as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def judge(numbers: Numbers) -> list[Judgement]:
    if "error" in numbers:
        return [judged(CLAIM, False, numbers["error"][:500])]
    found = f"first image after {numbers['first_seconds']:.1f} s, the next takes {numbers['next_seconds']:.3f} s"
    return [judged(CLAIM, True, found)]


COMPILATION = Part(
    "compilation", "Whether gsplat's kernels compile here, and how long that takes.", (CLAIM,), 4, measure, judge
)
