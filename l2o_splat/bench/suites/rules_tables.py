"""The tables of the suite ``rules``."""

from __future__ import annotations

from l2o_splat.bench.measures import Cell, Results
from l2o_splat.bench.suites.leads import (
    Lead,
    Mark,
    leads,
    losses,
    marks,
    mean_over_seeds,
    price,
    protocols_of,
    reference,
    runs_of,
)
from l2o_splat.bench.suites.rules import PROTOCOLS, RULES, capture_of
from l2o_splat.bench.tables import BETTER, QUALITY_DIGITS, QUALITY_NAMES, Column, Entry, Table, table_of

_BY_TITLE = {protocol.title: protocol for protocol in PROTOCOLS}


def rules_tables(results: Results) -> list[Table]:
    """PSNR, SSIM and leads by protocol; none for other sweeps."""
    if results.environment.get("suite") != RULES:
        return []
    found = leads(results)
    return [_quality(results, "psnr"), _quality(results, "ssim"), *([_lead_table(results, found)] if found else [])]


def _quality(results: Results, name: str) -> Table:
    def column(mark: Mark) -> Column:
        def cell(title: str, rule: str) -> Cell:
            cell = mean_over_seeds(runs_of(results, _BY_TITLE[title], rule), mark.measure(name))
            # What weights that nobody trained lead to says nothing about a rule.
            return Cell(None) if rule in results.environment["untrained"] and not cell.note else cell

        return Column(mark.title, cell, QUALITY_DIGITS[name], BETTER[name])

    costs = Column("step price", lambda title, rule: price(results, _BY_TITLE[title], rule), 2, suffix=" x")
    groups = {protocol.title: rules for protocol, rules in protocols_of(results).items()}
    title = QUALITY_NAMES[name]
    return table_of(
        f"rules-{name}",
        f"All rules: {title}",
        _explanation(results, title) + (_of_price(results) if name == "psnr" else ""),
        groups,
        [*map(column, marks(results)), *([costs] if name == "psnr" else [])],
        ("Protocol", "Rule"),
    )


def _explanation(results: Results, quality: str) -> str:
    captures = list(dict.fromkeys(map(capture_of, results.scenes)))
    return (
        f"{quality} of held-out views at times of the {results.clock} clock and after so many steps, mean over "
        f"{', '.join(captures)} and over {_seeds(results)}. 4 views and 8 views: trained on so many; dense: on all but "
        "every 8th. "
    )


def _of_price(results: Results) -> str:
    untrained = results.environment["untrained"]
    text = (
        f"Step price: processor seconds of a step, mean over the run without its start, relative to "
        f"{reference(results)} on the same capture; geometric mean over captures."
    )
    return text + (f" {', '.join(untrained)}: untrained weights, run for their price alone." if untrained else "")


def _lead_table(results: Results, found: list[Lead]) -> Table:
    explanation = (
        "PSNR of each learned rule minus that of the hand-made rule with the highest mean at the same mark: mean over "
        f"captures and over {_seeds(results)}, and the capture where it is smallest. "
    )
    columns = ["Protocol", "Rule", "Mark", "Best hand-made", "Lead, dB", "Worst capture", "Lead there, dB"]
    rows = [_lead_row(order, lead) for order, lead in enumerate(found)]
    return Table("rules-lead", "All rules: leads", explanation + " ".join(losses(found)), columns, rows)


def _lead_row(order: int, lead: Lead) -> list[Entry]:
    def text(text: str, sort: float | str | None = None) -> Entry:
        return Entry(text, text if sort is None else sort, kind="text")

    heads = [text(lead.protocol.title), text(lead.rule), text(lead.mark.title, order), text(lead.rival)]
    cell = lead.cell
    if cell.value is None:
        return [*heads, Entry(cell.note, None, kind="note"), text(""), Entry("", None)]
    spread = "" if cell.spread is None else f" ±{cell.spread / 2:.2f}"
    least = lead.by_capture[lead.worst]
    hint = "" if cell.spread is None else f"seeds from {cell.low:+.2f} to {cell.high:+.2f}"
    return [
        *heads,
        Entry(f"{cell.value:+.2f}{spread}", cell.value, hint),
        text(lead.worst),
        Entry(f"{least:+.2f}", least),
    ]


def _seeds(results: Results) -> str:
    count = len(results.seeds)
    return "1 seed" if count == 1 else f"{count} seeds (± half of their range)"
