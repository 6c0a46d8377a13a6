"""The papers' studies: which methods, with which weights, on which suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.published import ablation_rows, crossed_rows
from l2o_splat.bench.suites.suite import Published

StudyName = Literal[
    "views",
    "cross-resolution",
    "cross-dataset",
    "crossed-checkpoints",
    "schedule",
    "sgd",
    "recurrent",
    "ablations",
]

WEIGHTS_OPTION = "--optimizers.gaussians.optimizer.weights"
RESPLAT_UPDATES = "resplat --max-num-iterations"

Part = Literal["knn", "global-attention", "error"]
"""A part of ReSplat's update that can be taken out of weights that were trained with it."""


@dataclass(frozen=True)
class Variant:
    """One row of a study."""

    label: str
    method: str
    """Method with its options, as ``--methods`` takes it without a label."""
    weights: str | None = None
    """Name under which ``--study-weights`` gives its weights; None takes none."""
    required: bool = False
    """Whether it is left out without these weights; else the weights that the method has by default are taken."""
    without: Part | None = None
    """What is taken out of the weights ``full`` if its own are not given."""


@dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it."""

    question: str
    suites: tuple[str, ...]
    """Suites of the paper; the study runs on those whose data set is there, or on any captures."""
    variants: tuple[Variant, ...]
    published: Mapping[str, tuple[Published, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Rows beside those of the suites, by suite."""
    remark: str = ""


_RULES = (
    Variant("l2o-adam", "l2o-adam --preset paper"),
    Variant("l2o-adam-tuned", "l2o-adam-tuned --preset paper"),
    Variant("learn2splat", "learn2splat --preset paper", "learn2splat"),
)
_RESPLAT = (
    Variant("resplat, 1 update", f"{RESPLAT_UPDATES} 1", "resplat"),
    Variant("resplat, 4 updates", f"{RESPLAT_UPDATES} 4", "resplat"),
)

STUDIES: dict[StudyName, Study] = {
    "views": Study(
        "How do methods do with 2, 8 and 16 context views?",
        ("dl3dv-2v-512x960", "dl3dv-8v-512x960", "dl3dv-16v-512x960"),
        (*_RULES, *_RESPLAT),
    ),
    "cross-resolution": Study(
        "What does a model of 512 x 960 do at other sizes?",
        ("dl3dv-8v-512x960", "dl3dv-8v-448x832", "dl3dv-8v-416x768", "dl3dv-8v-320x640"),
        _RESPLAT,
        remark="The published rows are of weights for 512 x 960; name them with --study-weights resplat=....",
    ),
    "cross-dataset": Study(
        "What do weights of one data set do on another?",
        ("dl3dv-8v", "re10k", "acid"),
        (
            Variant("weights of dl3dv", f"{RESPLAT_UPDATES} 4", "dl3dv", required=True),
            Variant("weights of re10k", f"{RESPLAT_UPDATES} 2", "re10k", required=True),
        ),
    ),
    "crossed-checkpoints": Study(
        "What do weights of sparse, dense and both kinds of data do on either?",
        ("dl3dv", "dtu", "llff", "mipnerf360", "dl3dv-8v", "dl3dv-8v-512x960", "dl3dv-32v", "re10k-8v"),
        tuple(
            Variant(f"{kind} weights", "learn2splat --preset paper", kind, required=True)
            for kind in ("sparse", "dense", "unified")
        ),
        crossed_rows(),
    ),
    "schedule": Study(
        "Does a learned optimizer gain from a decay of its steps?",
        ("mipnerf360", "llff", "dtu", "dl3dv", "dl3dv-8v"),
        (
            Variant("learned", "learn2splat --preset paper", "learn2splat"),
            Variant(
                "learned, steps decay to 1/10",
                "learn2splat --preset paper --optimizers.gaussians.optimizer.decay-to 0.1",
                "learn2splat",
            ),
            Variant(
                "learned, steps decay to 1/100",
                "learn2splat --preset paper --optimizers.gaussians.optimizer.decay-to 0.01",
                "learn2splat",
            ),
            Variant("adam, means decay to 1/100", "l2o-adam --preset paper"),
            Variant("tuned adam, all decay to 1/3", "l2o-adam-tuned --preset paper"),
        ),
    ),
    "sgd": Study(
        "What is left of a method without moments, as plain gradient descent?",
        ("mipnerf360", "llff", "dtu", "dl3dv", "dl3dv-8v"),
        (Variant("sgd", "l2o-sgd --preset paper"), *_RULES),
    ),
    "recurrent": Study(
        "What do repeated updates add to a single one?",
        ("dl3dv-8v", "dl3dv-8v-512x960", "dl3dv-16v", "dl3dv-32v", "re10k"),
        (
            *(Variant(f"{count} of the updates", f"{RESPLAT_UPDATES} {count}", "resplat") for count in (1, 2, 3, 4)),
            Variant("one deeper update", f"{RESPLAT_UPDATES} 1", "single-step", required=True),
        ),
        ablation_rows(),
    ),
    "ablations": Study(
        "What is each part of ReSplat's update worth?",
        ("dl3dv-8v",),
        (
            Variant("full", f"{RESPLAT_UPDATES} 4", "full"),
            Variant("without kNN", f"{RESPLAT_UPDATES} 4", "no-knn", without="knn"),
            Variant("without global attention", f"{RESPLAT_UPDATES} 4", "no-global", without="global-attention"),
            Variant("without error", f"{RESPLAT_UPDATES} 4", "no-error", without="error"),
            Variant("without state", f"{RESPLAT_UPDATES} 4", "no-state", required=True),
        ),
        ablation_rows(),
        remark="The paper trains anew without each part. Where --study-weights names no such weights, the part is "
        "taken out of trained ones, which costs more than the part is worth.",
    ),
}


def study_variants(study: Study, weights: Mapping[str, str]) -> tuple[list[Variant], str]:
    """The variants that can be run with the given weights, and one sentence on those that cannot.

    Raises:
        BenchError: If weights are given under a name that the study does not have, or nothing is left to run.
    """
    slots = list(dict.fromkeys(variant.weights for variant in study.variants if variant.weights is not None))
    unknown = [name for name in weights if name not in slots]
    if unknown:
        known = f"it takes {', '.join(slots)}" if slots else "it takes none"
        raise BenchError(f"--study-weights {unknown[0]}={weights[unknown[0]]}: the study has no such weights; {known}.")
    left_out = [one for one in study.variants if one.required and one.weights not in weights]
    runnable = [one for one in study.variants if one not in left_out]
    names = ", ".join(f"--study-weights {one.weights}=..." for one in left_out)
    if not runnable:
        raise BenchError(f"Nothing of this study can be run without weights that were trained for it; give {names}.")
    sentence = ""
    if left_out:
        labels = ", ".join(one.label for one in left_out)
        sentence = f"Left out for want of weights that were trained that way: {labels}; give {names}."
    return runnable, sentence
