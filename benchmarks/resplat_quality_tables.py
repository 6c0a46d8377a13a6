"""The markdown tables of ``benchmarks/resplat_quality.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SIDES = ("target", "context")
"""Views on which quality is measured."""


@dataclass(frozen=True)
class Table:
    """Numbers under a heading; means over the captures are added."""

    title: str
    labels: Sequence[str]
    """Names of the columns that say what a row is about, the capture first."""
    columns: Sequence[str]
    digits: Sequence[int]
    rows: dict[tuple[str, ...], Sequence[float | None]]

    def markdown(self) -> list[str]:
        """A heading and a pipe table."""
        lines = [f"### {self.title}", "", _row([*self.labels, *self.columns])]
        lines.append(_row([*["---"] * len(self.labels), *["---:"] * len(self.columns)]))
        lines += [_row([*labels, *self._shown(values)]) for labels, values in self.rows.items()]
        for kind in dict.fromkeys(labels[1:] for labels in self.rows):
            rows = [values for labels, values in self.rows.items() if labels[1:] == kind]
            means = [_mean(column) for column in zip(*rows, strict=True)]
            lines.append(_row([f"mean of {len(rows)}", *kind, *self._shown(means)]))
        return [*lines, ""]

    def _shown(self, values: Sequence[float | None]) -> list[str]:
        pairs = zip(values, self.digits, strict=True)
        return ["" if value is None else f"{value:,.{digits}f}" for value, digits in pairs]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def start_table(captures: dict[str, dict[str, Any]]) -> Table:
    """Quality before the first update, with and without depth."""
    columns = [f"{side}{what}" for side in SIDES for what in ("", ", median depth", ", gain")]
    rows = {}
    for name, found in captures.items():
        deep, flat = found["start"]["depth"], found["start"]["median_depth"]
        pairs = [number for side in SIDES for number in (deep[side], flat[side], deep[side] - flat[side])]
        rows[name,] = [found["context_views"], found["target_views"], found["gaussians"], *pairs]
    counts = ["context views", "target views", "Gaussians"]
    return Table("Start, PSNR", ["capture"], [*counts, *columns], [0] * 3 + [2] * 6, rows)


def depth_table(captures: dict[str, dict[str, Any]]) -> Table:
    """How depths agree with the points that were kept back."""
    rows = {}
    for name, found in captures.items():
        known = [value for value in found["rank_correlation"] if value is not None]
        error = None if found["depth_error"] is None else 100 * found["depth_error"]
        rows[name,] = [_mean(known), min(known, default=None), len(known), _mean(found["points_per_view"]), error]
    columns = ["rank correlation, mean of views", "lowest", "views", "points per view", "median error, %"]
    return Table("Depth", ["capture"], columns, [3, 3, 0, 0, 2], rows)


def updates_table(captures: dict[str, dict[str, Any]], updates: int) -> Table:
    """Quality after each update."""
    steps = range(updates + 1)
    rows = {
        (name, where): [run["psnr"][step][side] for side in SIDES for step in steps]
        for name, found in captures.items()
        for where, run in found["updates"].items()
    }
    columns = [f"{side} {step}" for side in SIDES for step in steps]
    return Table("Updates, PSNR after each", ["capture", "start"], columns, [2] * len(columns), rows)


def equal_time_table(captures: dict[str, dict[str, Any]], updates: int) -> Table:
    """The updates and the tuned Adam rule."""
    rows = {}
    for name, found in captures.items():
        for where, run in found["updates"].items():
            spent = [run["gaussians"], updates, run["seconds"], run["seconds"]]
            rows[name, where, "resplat"] = [*spent, *(run["psnr"][-1][side] for side in SIDES)]
        for run in found["equal_time"]:
            spent = [run[field] for field in ("gaussians", "steps", "allowed_seconds", "seconds")]
            method = f"l2o-adam-tuned, {run['budget']}"
            rows[name, run["start"], method] = [*spent, *(run[side] for side in SIDES)]
    labels = ["capture", "start", "method"]
    columns = ["Gaussians", "steps", "s allowed", "s taken", *SIDES]
    return Table("Equal time, PSNR", labels, columns, [0, 0, 2, 2, 2, 2], rows)


def markdown(results: dict[str, Any]) -> str:
    """The tables, what they were measured with, and why captures are missing."""
    facts = results["environment"]
    lines = [
        f"`{facts['command']}`, commit {facts['commit']}, {facts['date']}, {facts['machine']}, torch {facts['torch']}. "
        f"Weights: {results['weights']}.",
        "",
    ]
    captures, updates = results["captures"], results["updates"]
    shown = [start_table(captures), depth_table(captures)]
    if all("updates" in found for found in captures.values()):
        shown += [updates_table(captures, updates), equal_time_table(captures, updates)]
    for table in shown:
        lines += table.markdown()
    lines += [f"- {name} is left out: {reason}" for name, reason in results["refused"].items()]
    return "\n".join(lines).rstrip() + "\n"
