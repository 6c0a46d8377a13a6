"""The suite ``rules``: every update rule from the same starts, with few photographs and with many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.methods import Kind, Method, find_method
from l2o_splat.bench.suites.work import PaperOptions
from l2o_splat.scenes.capture_names import CaptureSource, find_capture
from l2o_splat.scenes.split import NumContext, ViewChoice

RULES = "rules"
"""Name of the suite."""

SECONDS = 20.0
"""Budget of a run unless one is typed: about half an hour for the built-in captures on a laptop."""

BUILT_IN = ("l2o-demo:1", "l2o-demo:2")


@dataclass(frozen=True)
class Protocol:
    """How many photographs of a capture a run trains on."""

    name: str
    """First part of the names of its scenes."""
    title: str
    """In tables."""
    views: NumContext


SPARSE = (Protocol("rules-4v", "4 views", 4), Protocol("rules-8v", "8 views", 8))
DENSE = Protocol("rules-dense", "dense", "all")
PROTOCOLS = (*SPARSE, DENSE)

REFERENCE = "l2o-adam-tuned"
"""Label of the rule whose step has the price 1."""

_RULE = "--optimizers.gaussians.optimizer"
_AFTER_RESPLAT = f"resplat --preset fast {_RULE}.finish-after 4 {_RULE}.finish-with"

_RULES = {
    "l2o-adam": "l2o-adam --preset fast",
    "l2o-adam x5": f"l2o-adam --preset fast {_RULE}.rule adam-x5",
    REFERENCE: "l2o-adam-tuned --preset fast",
    "l2o-adam-tuned, preset alone": "l2o-adam-tuned --preset fast --schedule.controller none",
    "adam-adc (preset adc)": "adam-adc",
    # Without a hand-over, which would make most of its steps those of Adam.
    "learn2splat random:0": f"learn2splat --preset fast {_RULE}.weights random:0 {_RULE}.finish-after 1000000",
    "learn2splat": "learn2splat --preset fast",
    "learn2splat gain-mini": f"learn2splat --preset fast {_RULE}.weights gain-mini",
    "resplat + l2o-adam-tuned": f"{_AFTER_RESPLAT} adam-own-scale",
    "resplat + learn2splat": f"{_AFTER_RESPLAT} learn2splat",
}


def suite_rules() -> list[Method]:
    """The rules that are compared unless the user chooses others."""
    return [replace(find_method(text), label=label) for label, text in _RULES.items()]


def with_built_in(captures: Sequence[CaptureSource]) -> list[CaptureSource]:
    """The built-in captures, then the user's."""
    built_in = [find_capture(name) for name in BUILT_IN]
    return [*built_in, *(capture for capture in captures if capture not in built_in)]


def rule_groups(
    captures: Sequence[CaptureSource], typed: Sequence[Method] | None
) -> list[tuple[list[CaptureSource], list[Method]]]:
    """For each protocol the captures, under names ``PROTOCOL/CAPTURE``, and the rules that run on them.

    Args:
        captures: With distinct names.
        typed: Methods that the user chose for all protocols; None takes those of the suite.
    """
    return [
        (
            [replace(capture, scene=f"{protocol.name}/{capture.scene}", views=protocol.views) for capture in captures],
            _suited(protocol) if typed is None else list(typed),
        )
        for protocol in PROTOCOLS
    ]


def _suited(protocol: Protocol) -> list[Method]:
    """The rules of the suite without ReSplat where views are many, of which its networks would see a few."""
    return [rule for rule in suite_rules() if protocol is not DENSE or rule.name != "resplat"]


def by_kind(kinds: Mapping[str, Kind]) -> dict[Kind, list[str]]:
    """Labels of the methods of each kind."""
    return {kind: [label for label, one in kinds.items() if one == kind] for kind in get_args(Kind)}


def check_rules_options(papers: PaperOptions, views: ViewChoice, horizons: Sequence[int], ply: Sequence[str]) -> None:
    """Refuse options that have no meaning for this suite.

    Raises:
        BenchError: If one is set.
    """
    idle = {
        "another suite": set(papers.suites) - {RULES},
        "--study": papers.study,
        "--dataset": papers.datasets,
        "--view-index": papers.view_indices,
        "--scenes": papers.scenes,
        "--study-weights": papers.study_weights,
        "--views": views != "all",
        "--horizons": horizons,
        "--ply": ply,
    }
    set_ones = [option for option, value in idle.items() if value]
    if set_ones:
        raise BenchError(
            f"--suite {RULES} has protocols and budgets of its own, on built-in captures and those of --data; leave "
            f"{set_ones[0]} out, or run it apart."
        )


def protocol_of(scene: str) -> Protocol | None:
    """The protocol of a run's scene; None of a scene of no protocol."""
    name, slash, _ = scene.partition("/")
    return next((one for one in PROTOCOLS if slash and one.name == name), None)


def capture_of(scene: str) -> str:
    """Name of the capture of a run's scene."""
    return scene.partition("/")[2]
