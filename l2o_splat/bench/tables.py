"""The tables of the report as rows of entries, for HTML, Markdown and the terminal alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from l2o_splat.bench.measures import (
    MEASURED,
    Cell,
    Results,
    at_seconds,
    at_step,
    best,
    degradation,
    last,
    spent,
    step_time,
)
from l2o_splat.bench.run import Run
from l2o_splat.bench.spec import REPORTED_SECONDS, REPORTED_STEPS
from l2o_splat.budget.clock import other_clock

QUALITY_NAMES = {"psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "num_gaussians": "Gaussians"}
QUALITY_DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "num_gaussians": 0}
BETTER = {"psnr": 1, "ssim": 1, "lpips": -1, "num_gaussians": 0}


@dataclass(frozen=True)
class Entry:
    """A cell as it is shown."""

    text: str
    sort: float | str | None
    """Key for sorting the column; None comes last."""
    hint: str = ""
    """Text that appears when the mouse is over the cell."""
    kind: str = "number"
    """``number``, ``text``, ``note`` (why there is no number) or ``best`` (best number of its scene and column)."""


@dataclass(frozen=True)
class Table:
    """A table with its title and explanation; the first column of most is the scene."""

    name: str
    title: str
    explanation: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Entry]]


@dataclass(frozen=True)
class Column:
    """A column of numbers: one cell for each scene and method, or other group and member of it."""

    title: str
    cell: Callable[[str, str], Cell]
    digits: int
    better: int = 0
    """1 if more is better, -1 if less is better, 0 if no best is marked."""
    factor: float = 1.0
    """Factor from the unit of the measure to that of the column."""
    suffix: str = ""

    def shown(self, value: float) -> str:
        """Return the value as text, without the suffix."""
        return f"{value * self.factor:,.{self.digits}f}"


def all_tables(results: Results) -> list[Table]:
    """Make every table of the report, in its order."""
    return [summary(results), equal_time(results), *quality_tables(results), runs_table(results)]


def summary(results: Results) -> Table:
    """Make the table with one line per scene and method: final quality and cost."""
    columns = [
        _quality(results, "PSNR, last", last("psnr"), "psnr"),
        _quality(results, "PSNR, best", best("psnr"), "psnr"),
        Column("lost since best", lambda *at: results.cell(*at, degradation), 2, -1),
        _quality(results, "SSIM, last", last("ssim"), "ssim"),
        _quality(results, "LPIPS, last", last("lpips"), "lpips"),
        Column("steps", lambda *at: results.cell(*at, last("step")), 0),
        Column(f"{results.clock} s", lambda *at: results.cell(*at, spent("seconds")), 1),
        Column(f"{other_clock(results.clock)} s", lambda *at: results.cell(*at, spent("other_seconds")), 1),
        Column("ms per step", lambda *at: results.cell(*at, step_time), 1, -1, factor=1000),
        Column("step time ratio", results.step_ratio, 2, -1, suffix=" x"),
        Column("Gaussians", lambda *at: results.cell(*at, lambda run: run.num_gaussians), 0),
        Column("needles", lambda *at: results.cell(*at, last("needles")), 1, -1, factor=100, suffix=" %"),
        Column("peak MiB", lambda *at: results.cell(*at, lambda run: run.peak_memory_mib), 0),
    ]
    explanation = (
        f"Held-out quality at the end of each run, median over {_seeds(results)}; all scenes: mean over scenes. "
        f"“Lost since best” is how far PSNR (dB) has fallen from its best evaluation. Step time ratio: to "
        f"{results.baseline} on the same scene. {_clocks(results)} Needles: share of the Gaussians over ten times as "
        "long as their second axis."
    )
    if results.shows("cc_psnr"):
        columns.insert(2, Column("PSNR, colours fitted", lambda *at: results.cell(*at, last("cc_psnr")), 2, 1))
        explanation += " Colours fitted: after the affine transform of colours that suits each view best."
    return _table("summary", "Summary", explanation, results, columns)


def equal_time(results: Results) -> Table:
    """Make the table in which every method gets the baseline's time (Learn2Splat, arXiv 2605.15760, main table)."""

    def used(scene: str, method: str) -> Cell:
        def share(run: Run) -> float | None:
            budget = results.budget(run)
            return budget and min(run.seconds / budget, 1.0)

        return results.cell(scene, method, share)

    def in_budget(title: str, measure, digits: int, better: int) -> Column:
        return Column(title, lambda *at: results.in_budget(*at, measure), digits, better)

    columns = [
        Column(
            "budget s", lambda scene, method: results.in_budget(scene, results.baseline, lambda run: run.seconds), 1
        ),
        in_budget("PSNR, best", best("psnr"), 2, 1),
        in_budget("PSNR, at end", last("psnr"), 2, 1),
        in_budget("SSIM, at end", last("ssim"), 4, 1),
        in_budget("LPIPS, at end", last("lpips"), 4, -1),
        in_budget("steps", last("step"), 0, 0),
        in_budget(f"{results.clock} s", last("seconds"), 1, 0),
        in_budget(f"{other_clock(results.clock)} s", last("other_seconds"), 1, 0),
        Column("budget used", used, 0, factor=100, suffix=" %"),
        Column("peak MiB", lambda *at: results.cell(*at, lambda run: run.peak_memory_mib), 0),
    ]
    explanation = (
        f"Every method gets the time that {results.baseline} took on the same scene with the same seed. Best: the "
        "evaluation with the highest PSNR within it; at end: the last evaluation within it. A method that uses less "
        f"than 100 % had taken all its steps before the time was up. {_clocks(results)}"
    )
    return _table("equal-time", "Equal wall-clock", explanation, results, columns)


def quality_tables(results: Results) -> list[Table]:
    """Make the tables of each quality, and of the number of Gaussians, after numbers of steps and at clock times."""
    reached = {point.step for run in results.runs for point in run.curve}
    ends = {run.last.step for run in results.runs if run.ok}
    steps = sorted(reached & {*REPORTED_STEPS, *ends})
    longest = max((run.seconds for run in results.runs), default=0.0)
    seconds = [second for second in REPORTED_SECONDS if second <= longest]
    tables = []
    for name in MEASURED:
        if not results.shows(name):
            continue
        title = QUALITY_NAMES[name]
        over_steps = [_quality(results, f"{step:,}", at_step(name, step), name) for step in steps]
        over_time = [_quality(results, f"{second} s", at_seconds(name, second), name) for second in seconds]
        explanation = f"Median over {_seeds(results)}; step 0 is after initialization, before any update."
        tables.append(_table(f"{name}-steps", f"{title} after so many steps", explanation, results, over_steps))
        if over_time:
            explanation = (
                f"The last evaluation before that time on the {results.clock} clock; blank where a run had ended or "
                "was still initializing."
            )
            tables.append(_table(f"{name}-seconds", f"{title} at clock times", explanation, results, over_time))
    return tables


def runs_table(results: Results) -> Table:
    """Make the table of every single run, with its status and the parts of its time."""
    clock, other = results.clock, other_clock(results.clock)
    columns = ["Scene", "Method", "Seed", "Status", "Steps", "PSNR, last", f"{clock} s", f"{other} s", "Initializer s"]
    columns += ["ms per step", "Render", "Backward", "Update", "Compile s", "Loading s", "Gaussians", "Needles"]
    columns += ["Peak MiB", "Views", "Machine"]
    explanation = (
        f"{_clocks(results)} Both hold initializer and steps; compiling at the first step and loading images are not "
        "on them. Render, backward and update are shares of a step in ms (medians). Views: trained on + held out."
    )
    return Table("runs", "Runs", explanation, columns, [_run_row(run) for run in results.runs])


def _run_row(run: Run) -> list[Entry]:
    def number(value: float | None, digits: int, factor: float = 1.0) -> Entry:
        return Entry("", None) if value is None else Entry(f"{value * factor:,.{digits}f}", value)

    status = run.status.replace("_", " ")
    parts = [number(run.step_seconds.get(part), 1, 1000) for part in ("total", "render", "backward", "update")]
    return [
        Entry(run.scene, run.scene, kind="text"),
        Entry(run.method, run.method, kind="text"),
        Entry(str(run.seed), run.seed),
        Entry(f"{status}: {run.reason}" if run.reason else status, status, kind="text" if run.ok else "note"),
        number(run.steps, 0),
        number(run.last and run.last.psnr, 2),
        number(run.seconds if run.steps else None, 1),
        number(run.other_seconds if run.steps else None, 1),
        number(run.initializer_seconds if run.steps else None, 2),
        *parts,
        number(run.compile_seconds, 1),
        number(run.loading_seconds, 1),
        number(run.num_gaussians, 0),
        _needles(run),
        number(run.peak_memory_mib, 0),
        Entry(f"{run.training_views} + {run.held_out_views}", run.training_views),
        Entry(run.machine, run.machine, kind="text"),
    ]


def _needles(run: Run) -> Entry:
    share = run.last and run.last.needles
    return Entry("", None) if share is None else Entry(f"{share:.1%}".replace("%", " %"), share)


def _clocks(results: Results) -> str:
    clock = results.clock
    return (
        f"Seconds of the {clock} clock decide budgets and ends; those of the {other_clock(clock)} clock stand beside "
        "them."
    )


def _quality(results: Results, title: str, measure: Callable[[Run], float | None], name: str) -> Column:
    return Column(title, lambda *at: results.cell(*at, measure), QUALITY_DIGITS[name], BETTER[name])


def _table(name: str, title: str, explanation: str, results: Results, columns: Sequence[Column]) -> Table:
    groups = {scene: results.methods for scene in results.scene_groups}
    return table_of(name, title, explanation, groups, columns, ("Scene", "Method"))


def table_of(
    name: str,
    title: str,
    explanation: str,
    groups: Mapping[str, Sequence[str]],
    columns: Sequence[Column],
    names: tuple[str, str],
) -> Table:
    """Make a table with one row for each member of each group; the best number of a group is marked.

    Args:
        name: Of its section in the report.
        title: Above the table.
        explanation: Below the title.
        groups: Members by group: methods by scene, for example. Columns are asked for each group and member.
        columns: Of numbers; those without any number are left out.
        names: Titles of the columns of groups and members.
    """
    rows = []
    for group, members in groups.items():
        cells = {member: [column.cell(group, member) for column in columns] for member in members}
        winners = [_best_of(column, [cells[member][i] for member in members]) for i, column in enumerate(columns)]
        for member in members:
            heads = [Entry(group, group, kind="text"), Entry(member, member, kind="text")]
            entries = [_entry(*parts) for parts in zip(cells[member], columns, winners, strict=True)]
            rows.append(heads + _note_once(entries))
    # A quality that nothing could measure (LPIPS without its backbone) has no column.
    used = [i for i in range(len(columns) + 2) if any(row[i].text for row in rows)]
    titles = [*names, *(column.title for column in columns)]
    return Table(name, title, explanation, [titles[i] for i in used], [[row[i] for i in used] for row in rows])


def _note_once(entries: Sequence[Entry]) -> list[Entry]:
    """Keep only the first note of a row, since all its notes give the same reason."""
    notes = [i for i, entry in enumerate(entries) if entry.kind == "note"]
    return [Entry("", None) if i in notes[1:] else entry for i, entry in enumerate(entries)]


def _best_of(column: Column, cells: Sequence[Cell]) -> str:
    """Return the best of these cells as it is shown; empty if all are shown alike."""
    values = [cell.value for cell in cells if cell.value is not None]
    if not column.better or len({column.shown(value) for value in values}) < 2:
        return ""
    return column.shown(max(values) if column.better > 0 else min(values))


def _entry(cell: Cell, column: Column, winner: str) -> Entry:
    if cell.value is None:
        return Entry(cell.note, None, kind="note" if cell.note else "number")
    text = column.shown(cell.value)
    kind = "best" if text == winner else "number"
    text += column.suffix
    hint = ""
    if cell.spread is not None:
        hint = f"seeds from {column.shown(cell.low)} to {column.shown(cell.high)}"
        if column.shown(cell.spread / 2) != column.shown(0.0):
            text += f" ±{column.shown(cell.spread / 2)}"
    return Entry(text, cell.value, hint, kind)


def _seeds(results: Results) -> str:
    count = len(results.seeds)
    return "1 seed" if count == 1 else f"{count} seeds (± half of their range)"
