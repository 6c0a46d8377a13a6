"""What every part makes of its numbers: both verdicts, and when there is none."""

import copy
import math

import pytest

from l2o_splat.prove.checkout import read_tables
from l2o_splat.prove.parts import PARTS, part_named
from l2o_splat.prove.parts.garden import PUBLISHED
from l2o_splat.prove.parts.gpu_tests import read_results
from l2o_splat.prove.parts.lead import FIRST, LAST, psnr_at_seconds
from l2o_splat.prove.parts.methods import OPTIONS
from l2o_splat.prove.parts.weights import NAMES
from l2o_splat.prove.records import judgements_of
from l2o_splat.prove.runs import scale_to

STEP_TABLE = """`python benchmarks/step.py`, some machine

| image | Gaussians | CPU s before | CPU s now | ratio | 2 threads: s before | s now | ratio | peak MB now |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 958x636 | 80,000 | 0.100 | 0.200 | **2.00** | 0.060 | 0.030 | **0.50** | 800 |
"""
PHASES_TABLE = """
| Gaussians | rule | render | step | x Adam |
| --- | --- | --- | --- | --- |
| 139,000 | adam | 5.0 | 20.0 | 1.00 |
| 139,000 | gain-mini | 5.0 | 25.0 | 1.25 |
"""
IMPLICIT_TABLE = """
| T | backward mode | x PCG | MiB x PCG |
| --- | --- | --- | --- |
| 10 | implicit_damped | 1.00 | 1.00 |
| 10 | unroll | 0.60 | 0.90 |
| 25 | implicit_damped | 1.00 | 1.00 |
| 25 | unroll | 1.10 | 1.80 |
"""


def scene(**changes):
    return {
        **{"seed": 0, "mode": "classic", "degree": 3, "largest": 1e-3, "psnr": 95.0, "alpha": 1e-5, "depth": 1e-5},
        **{"gradient": 1e-4, "worst_field": "quats"},
    } | changes


def run(*psnrs, status="ok", seconds=120.0, **changes):
    curve = [[step, seconds * step / max(len(psnrs) - 1, 1), psnr] for step, psnr in enumerate(psnrs)]
    return {"status": status, "reason": "its reason", "steps": 60, "seconds": seconds, "curve": curve} | changes


def both(card, processor):
    return {"card": card, "processor": processor}


GARDEN_CURVE = [[step, 0.1 * step, psnr - 0.2] for step, psnr in PUBLISHED.items()]
RESPLAT = {
    **{"initialization": {"total": 0.3}, "update": {"total": 0.12}, "views": [8, 512, 960]},
    **{"weights": "random", "precision": "bfloat16", "neighbours": "exact"},
}
WEIGHTS = {"location": "hf://a/b/c@1", "sha256": "0" * 64, "tensors": 3, "parameters": 10}
AHEAD = [20.0 + 0.1 * second for second in range(FIRST, LAST + 1)]
FIXTURE = {"ok": True, "said": "9 quantities compared", "failed": []}

GOOD = {
    "facts": {"facts": {}, "error": 1e-7},
    "compilation": {"first_seconds": 90.0, "next_seconds": 0.01},
    "backends": {"image_rules": "1.4", "scenes": [scene(), scene(depth=None)]},
    "gpu-tests": {"passed": 9, "failed": [], "skipped": []},
    "methods": {method: both(run(10.0, 24.8), run(10.0, 25.0)) for method in OPTIONS},
    "step-time": {rule: {"milliseconds": [10.0, 11.0, 12.0], "finite": True} for rule in ("adam", "gain-mini")},
    "memory": {"sizes": [1000, 2000], "card_mib": 40_000, "adam": [900, 9000], "gain-mini": [900, 16_384]},
    "weights": dict.fromkeys(NAMES, WEIGHTS),
    "benchmark-step": {"tables": read_tables(STEP_TABLE)},
    "benchmark-optimizer-step": {"tables": read_tables(PHASES_TABLE)},
    "benchmark-resplat": RESPLAT,
    "benchmark-implicit-gradient": {"tables": read_tables(IMPLICIT_TABLE)},
    "golden": {"learn2splat": {"learn2splat_a.pt": FIXTURE}, "resplat": {"resplat_misc.pt": FIXTURE}},
    "garden": run() | {"curve": GARDEN_CURVE, "steps": 2000},
    "curve-learn2splat": run(10.0, 24.0),
    "curve-l2o-adam-tuned": run(10.0, 24.0),
    "curve-splatfacto": run(10.0, 24.0),
    "lead": {"learn2splat": list(AHEAD), "l2o-adam-tuned": list(AHEAD), "splatfacto": [v - 0.5 for v in AHEAD]},
}
"""Numbers with which every claim holds."""


def verdicts(name, numbers):
    return [judgement.verdict for judgement in judgements_of(part_named(name), numbers)]


def changed(name, *path, to):
    numbers = copy.deepcopy(GOOD[name])
    place = numbers
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return numbers


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_claim_can_be_proven(part):
    judgements = judgements_of(part, GOOD[part.name])
    assert [(one.claim, one.verdict) for one in judgements] == [(claim, "proven") for claim in part.claims]
    assert all(one.found for one in judgements)


NAN = math.nan
REFUTED = [
    ("facts", ["error"], 1e-3, 0),
    ("facts", ["error"], NAN, 0),
    ("backends", ["scenes", 1, "largest"], 7e-3, 0),
    ("backends", ["scenes", 0, "psnr"], NAN, 0),
    ("backends", ["scenes", 1, "alpha"], 2e-4, 0),
    ("backends", ["scenes", 0, "depth"], 2e-3, 0),
    ("backends", ["scenes", 1, "gradient"], 6e-3, 1),
    ("backends", ["scenes", 0, "gradient"], NAN, 1),
    ("gpu-tests", ["failed"], ["tests.some::test"], 0),
    ("methods", ["l2o-adam", "card"], run(10.0, 24.6), 0),
    ("methods", ["learn2splat", "card"], run(10.0, NAN), 2),
    ("methods", ["diff3r", "card"], run(10.0, status="out_of_memory"), 4),
    ("step-time", ["gain-mini", "milliseconds"], [14.0, 14.4, 15.0], 0),
    ("step-time", ["gain-mini", "finite"], False, 1),
    ("memory", ["adam"], [900, 16_385], 0),
    ("memory", ["gain-mini"], [900, None], 1),
    ("weights", ["learn2splat"], {"absent": "The hub has no such file."}, 0),
    ("weights", ["resplat-small-dl3dv-256x448-view8"], WEIGHTS | {"error": "tensors are missing"}, 1),
    ("benchmark-step", ["tables", 0, 0, "ratio"], "1.06", 0),
    ("benchmark-optimizer-step", ["tables", 0, 1, "x Adam"], "1.31", 0),
    ("benchmark-resplat", ["update", "total"], 0.13, 0),
    ("benchmark-implicit-gradient", ["tables", 0, 3, "MiB x PCG"], "0.99", 0),
    ("golden", ["resplat", "resplat_misc.pt"], {"ok": False, "said": "1 failed", "failed": ["cov"]}, 1),
    ("garden", ["curve", 0, 2], 14.4, 0),
    ("garden", ["curve", 2, 2], 22.97, 2),
    ("curve-splatfacto", ["curve", 1, 2], NAN, 0),
    ("curve-learn2splat", ["status"], "failed", 0),
    ("lead", ["learn2splat", 7], AHEAD[7] - 0.6, 0),
    ("lead", ["learn2splat", 0], None, 0),
    ("lead", ["l2o-adam-tuned", 100], NAN, 1),
    ("lead", ["l2o-adam-tuned", 3], AHEAD[3] - 0.5, 1),
]


@pytest.mark.parametrize(("name", "path", "value", "index"), REFUTED)
def test_every_claim_can_be_refuted_and_no_other_with_it(name, path, value, index):
    expected = ["refuted" if i == index else "proven" for i in range(len(part_named(name).claims))]
    assert verdicts(name, changed(name, *path, to=value)) == expected


def test_all_parts_are_among_those_refuted():
    apart = {"compilation", "curve-l2o-adam-tuned"}
    assert {name for name, *_ in REFUTED} | apart == {part.name for part in PARTS} == set(GOOD)
    assert verdicts("compilation", {"error": "RuntimeError: no nvcc"}) == ["refuted"]


@pytest.mark.parametrize(
    ("name", "numbers", "index"),
    [
        ("gpu-tests", {"passed": 8, "failed": [], "skipped": ["one: there is no CUDA device"]}, 0),
        ("gpu-tests", {"passed": 0, "failed": [], "skipped": []}, 0),
        ("methods", changed("methods", "resplat", "processor", to=run(status="failed")), 3),
        ("memory", GOOD["memory"] | {"card_mib": 8_000, "adam": [900, None]}, 0),
        ("weights", changed("weights", "learn2splat", to={"unreachable": "no network"}), 0),
        ("golden", GOOD["golden"] | {"learn2splat": {}}, 0),
        ("garden", GOOD["garden"] | {"curve": GARDEN_CURVE[:-1]}, 5),
        ("curve-learn2splat", run(10.0, 24.0, seconds=80.0), 0),
        (
            "lead",
            {**GOOD["lead"], "l2o-adam-tuned": [None, *AHEAD[1:]], "splatfacto": [None, *[10.0] * len(AHEAD[1:])]},
            1,
        ),
    ],
)
def test_what_says_nothing_decides_nothing(name, numbers, index):
    assert verdicts(name, numbers)[index] == "not decided"


def test_a_run_that_ended_early_refutes_what_it_did_not_reach():
    failed = GOOD["garden"] | {"curve": GARDEN_CURVE[:2], "status": "failed"}
    assert verdicts("garden", failed) == ["proven"] * 2 + ["refuted"] * 4


def test_the_last_evaluation_before_a_second_counts():
    curve = {"seconds": 7.5, "curve": [[0, 0.5, 10.0], [1, 5.5, 20.0], [2, 6.9, 30.0]]}
    assert psnr_at_seconds(curve) == [10.0, 20.0, 30.0] + [None] * (LAST - FIRST - 2)


def test_results_of_tests_are_counted(tmp_path):
    path = tmp_path / "results.xml"
    path.write_text(
        '<testsuites><testsuite><testcase classname="a" name="one"/><testcase classname="a" name="two"><failure/>'
        '</testcase><testcase classname="b" name="three"><skipped message="no card"/></testcase>'
        '<testcase classname="b" name="four"><error/></testcase></testsuite></testsuites>'
    )
    assert read_results(path) == {"passed": 1, "failed": ["a::two", "b::four"], "skipped": ["b::three: no card"]}


def test_photographs_are_scaled_down_only(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    (tmp_path / "images_4").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "images/a.png")
    Image.new("RGB", (50, 25)).save(tmp_path / "images_4/a.png")
    assert scale_to(tmp_path, 50) == 0.25 and scale_to(tmp_path, 50, of_height=True) == 0.5
    assert scale_to(tmp_path, 400) == 1 and scale_to(None, 50) == 1
