"""The benchmarks of a checkout in a short form."""

from __future__ import annotations

import json

from l2o_splat.prove.checkout import ROOT, missing_folder, tables_of
from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged

RESPLAT_WEIGHTS = "resplat-base-dl3dv-512x960-view8"
RESPLAT_SECONDS, RESPLAT_UPDATES = 0.816, 4
"""What ReSplat's authors measured for the initial model and four updates of 8 views of 512 x 960 with the base model
(arXiv 2510.08575, table 1); they do not say on which card."""
BEFORE = "196d9fa"
SLOWER, LEARNED = 1.05, 1.3

STEP = f"A step of ns-train l2o-adam on the card takes at most {SLOWER:g} times what it took at commit {BEFORE}"
PHASES = (
    f"With its phases timed apart, a learned step takes at most {LEARNED:g} times an Adam step at 139,000 Gaussians"
)
RESPLAT = f"ReSplat (base, 8 views of 512 x 960, {RESPLAT_UPDATES} updates) takes at most {RESPLAT_SECONDS} s"
IMPLICIT = "Implicit differentiation needs less memory than unrolling 25 steps"


def missing(setting: Setting) -> str:
    return missing_folder("benchmarks")


def missing_commit(setting: Setting) -> str:
    return missing(setting) or ("" if (ROOT / ".git").exists() else f"a checkout with its history (commit {BEFORE})")


def measure_step(setting: Setting) -> Numbers:
    """The tables of ``benchmarks/step.py``."""
    sizes = ["--against", BEFORE, "--sizes", "958x636", "--numbers", "80000", "--rounds", "1", "--seconds", "10"]
    tiny = ["--against", "HEAD", "--sizes", "64x48", "--numbers", "200", "--views", "2", "--photographs", "4"]
    tiny += ["--steps", "1", "--seconds", "0", "--rounds", "1"]
    words = ["--device", setting.device, "--sampled-seconds", "0", *(tiny if setting.rehearsal else sizes)]
    return {"tables": tables_of("benchmarks/step.py", words)[:1]}


def judge_step(numbers: Numbers) -> list[Judgement]:
    row = numbers["tables"][0][-1]
    # Columns of the same name stand for both clocks; the last one, on the wall, is kept.
    ratio = float(row["ratio"])
    found = f"{ratio:.2f} times: {row['s now']} s against {row['2 threads: s before']} s ({row['Gaussians']} Gaussians)"
    return [judged(STEP, ratio <= SLOWER, found)]


def measure_phases(setting: Setting) -> Numbers:
    """The tables of ``benchmarks/optimizer_step.py``."""
    words = ["--sizes", "139000", "--rules", "adam", "learn2splat", "gain-mini", "--steps", "10"]
    if setting.rehearsal:
        words = ["--sizes", "200", "--rules", "adam", "gain-mini", "--steps", "1", "--views", "2"]
        words += ["--image-size", "24", "32"]
    return {"tables": tables_of("benchmarks/optimizer_step.py", ["--device", setting.device, *words])}


def judge_phases(numbers: Numbers) -> list[Judgement]:
    rows = {row["rule"]: row for row in numbers["tables"][0]}
    found = "; ".join(f"{rule}: {row['step']} ms, {row['x Adam']} times" for rule, row in rows.items())
    return [judged(PHASES, float(rows["gain-mini"]["x Adam"]) <= LEARNED, found)]


def measure_resplat(setting: Setting) -> Numbers:
    """What ``benchmarks/resplat.py`` writes as JSON; with random weights of the same widths if the official ones are
    not on this machine, which take the same time."""
    from l2o_splat.weights.catalogue import CATALOGUE, HubFile

    cached = HubFile.parse(CATALOGUE[RESPLAT_WEIGHTS].location).is_cached()
    words = ["--weights", RESPLAT_WEIGHTS if cached else f"random:{RESPLAT_WEIGHTS}"]
    if setting.rehearsal:
        words = ["--weights", "resplat-mini", "--views", "2", "--height", "32", "--width", "64", "--repeats", "1"]
    path = setting.work("benchmark-resplat") / "resplat.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    tables_of("benchmarks/resplat.py", ["--device", setting.device, "--json", str(path), *words])
    return json.loads(path.read_text())


def judge_resplat(numbers: Numbers) -> list[Judgement]:
    initial, update = numbers["initialization"]["total"], numbers["update"]["total"]
    total = initial + RESPLAT_UPDATES * update
    views, height, width = numbers["views"]
    found = (
        f"{total:.3f} s: {initial:.3f} s and {RESPLAT_UPDATES} times {update:.3f} s, {views} views of "
        f"{height} x {width}, {numbers['weights']}, {numbers['precision']}, {numbers['neighbours']} neighbours"
    )
    return [judged(RESPLAT, total <= RESPLAT_SECONDS, found)]


def measure_implicit(setting: Setting) -> Numbers:
    """The tables of ``benchmarks/implicit_gradient.py``."""
    words = ["--steps", "10", "25"]
    if setting.rehearsal:
        words = ["--steps", "2", "--side", "8", "--iterations", "2"]
    return {"tables": tables_of("benchmarks/implicit_gradient.py", ["--device", setting.device, *words])}


def judge_implicit(numbers: Numbers) -> list[Judgement]:
    rows = numbers["tables"][0]
    last = {row["backward mode"]: row for row in rows if row["T"] == rows[-1]["T"]}
    ratio = float(last["unroll"]["MiB x PCG"])
    time = last["unroll"]["x PCG"]
    found = f"unrolling {rows[-1]['T']} steps needs {ratio:.2f} times the memory and {time} times the time"
    return [judged(IMPLICIT, ratio > 1, found)]


BENCHMARKS = (
    Part(
        "benchmark-step",
        f"Whether a step of ns-train on the card is as fast as at commit {BEFORE} (benchmarks/step.py).",
        (STEP,),
        3,
        measure_step,
        judge_step,
        missing=missing_commit,
    ),
    Part(
        "benchmark-optimizer-step",
        "Where the time of a learned step goes (benchmarks/optimizer_step.py).",
        (PHASES,),
        2,
        measure_phases,
        judge_phases,
        missing=missing,
    ),
    Part(
        "benchmark-resplat",
        "Whether ReSplat's initial model and updates are as fast as its authors measured (benchmarks/resplat.py).",
        (RESPLAT,),
        2,
        measure_resplat,
        judge_resplat,
        missing=missing,
    ),
    Part(
        "benchmark-implicit-gradient",
        "What a gradient through the refinement costs (benchmarks/implicit_gradient.py).",
        (IMPLICIT,),
        4,
        measure_implicit,
        judge_implicit,
        missing=missing,
    ),
)
