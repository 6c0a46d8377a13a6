"""Our runs of each suite and the rows of the papers, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from l2o_splat.bench.measures import Measure, Results, best, last, over_seeds, spent
from l2o_splat.bench.run import Run
from l2o_splat.bench.suites.catalogue import scenes_of_paper, suite_of
from l2o_splat.bench.suites.studies import STUDIES
from l2o_splat.bench.suites.suite import Published, Suite
from l2o_splat.bench.tables import Entry, Table

HERE, ELSEWHERE = "measured here", "published"

_COLUMNS: tuple[tuple[str, Measure, Callable[[Published], float | None], int], ...] = (
    ("PSNR, best", best("psnr"), lambda row: row.best_psnr, 2),
    ("PSNR, at end", last("psnr"), lambda row: row.psnr, 2),
    ("SSIM", last("ssim"), lambda row: row.ssim, 3),
    ("LPIPS (AlexNet)", last("lpips"), lambda row: None, 3),
    ("LPIPS (papers)", lambda run: None, lambda row: row.lpips, 3),
    ("steps", last("step"), lambda row: row.steps, 0),
    ("Gaussians", lambda run: run.num_gaussians, lambda row: row.num_gaussians, 0),
    ("seconds", spent("seconds"), lambda row: row.seconds, 1),
    ("peak GB", lambda run: run.peak_memory_mib and run.peak_memory_mib / 1024, lambda row: row.peak_gb, 1),
)
"""Title, measure of our runs, number of a published row, digits."""


def suites_in(results: Results) -> list[Suite]:
    """Suites that some scene of the results belongs to."""
    found = (suite_of(scene) for scene in results.scenes)
    return list({suite.name: suite for suite in found if suite is not None}.values())


def beside_papers(results: Results) -> Table | None:
    """The table; None without suites."""
    suites = suites_in(results)
    if not suites:
        return None
    rows = []
    for suite in suites:
        methods = [method for method in results.methods if _runs(results, suite, method)]
        rows += [_own_row(results, suite, method) for method in methods]
        rows += [_published_row(suite, row) for row in (*suite.published, *_of_study(results, suite))]
    titles = ["Suite", "Method", "From", *(title for title, *_ in _COLUMNS)]
    used = [i for i in range(len(titles)) if any(row[i].text for row in rows)]
    return Table(
        "papers",
        "Beside the papers",
        _explanation(results, suites),
        [titles[i] for i in used],
        [[row[i] for i in used] for row in rows],
    )


def _of_study(results: Results, suite: Suite) -> Sequence[Published]:
    study = STUDIES.get(results.environment.get("study", ""))
    return () if study is None else study.published.get(suite.name, ())


def _runs(results: Results, suite: Suite, method: str | None = None) -> list[Run]:
    return [run for run in results.runs if suite_of(run.scene) is suite and (method is None or run.method == method)]


def _own_row(results: Results, suite: Suite, method: str) -> list[Entry]:
    runs = _runs(results, suite, method)
    cells = [over_seeds(runs, measure) for _, measure, _, _ in _COLUMNS]
    notes = [cell.note for cell in cells if cell.note]
    entries = [_number(cell.value, digits) for cell, (*_, digits) in zip(cells, _COLUMNS, strict=True)]
    if notes:
        entries[0] = Entry(notes[0], None, kind="note")
    return [_text(suite.name), _text(method), _text(HERE), *entries]


def _published_row(suite: Suite, row: Published) -> list[Entry]:
    entries = [_number(value(row), digits) for _, _, value, digits in _COLUMNS]
    return [_text(suite.name), _text(row.method), _text(f"{ELSEWHERE}: {row.source}"), *entries]


def _text(text: str) -> Entry:
    return Entry(text, text, kind="text")


def _number(value: float | None, digits: int) -> Entry:
    return Entry("", None) if value is None else Entry(f"{value:,.{digits}f}", value)


def _explanation(results: Results, suites: Sequence[Suite]) -> str:
    parts = [
        "Rows “published” are the papers' own, on their machines, with their renderers and training; ours were "
        "measured here. A number that a paper does not give stays empty. Means over images, then over scenes.",
        "LPIPS of the papers is of VGG, ours of AlexNet: not comparable. ",
    ]
    return " ".join(part.strip() for part in (*parts, *(_differences(results, suite) for suite in suites)))


def _differences(results: Results, suite: Suite) -> str:
    """What differs between our runs of a suite and the paper's."""
    runs = _runs(results, suite)
    scenes, whole = len({run.scene for run in runs}), scenes_of_paper(suite)
    of_whole = "" if whole is None else f" (paper: {whole})"
    steps = sorted({run.steps for run in runs if run.ok})
    facts = [f"{scenes} scene{'' if scenes == 1 else 's'}{of_whole}", str(suite.split), str(suite.size)]
    if suite.normalised:
        facts.append("normalised scenes")
    if steps:
        facts.append(f"{' or '.join(map(str, steps))} steps")
    scale = results.environment.get("scale", 1.0)
    if scale != 1:
        facts.append(f"sides scaled by {scale:g} beyond that, unlike the paper")
    machines = sorted({run.machine for run in runs if run.machine})
    if machines:
        facts.append(f"on {' and '.join(machines)}")
    if any(machine.endswith("threads") for machine in machines):
        facts.append("without CUDA, by the CPU renderer of this package")
    return f"{suite.name}: {', '.join(facts)}. {suite.remark}"
