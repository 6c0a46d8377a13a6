"""The result as two files: ``report.html``, which needs no network, and ``report.json`` with every number."""

from __future__ import annotations

import html
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from l2o_splat.bench.page import asset, filled, style
from l2o_splat.environment import environment
from l2o_splat.files import write_text_whole
from l2o_splat.prove.chart import chart
from l2o_splat.prove.part import Judgement, Part, Setting, Verdict
from l2o_splat.prove.parts.garden import GARDEN, PUBLISHED
from l2o_splat.prove.parts.lead import LEAD
from l2o_splat.prove.records import Record, nothing_decided

HTML_NAME, JSON_NAME = "report.html", "report.json"

VERDICTS: tuple[Verdict, ...] = ("proven", "refuted", "not decided")

REHEARSAL = "This is a rehearsal on the CPU, in tiny sizes: it shows that the parts work, and decides nothing."


def write_report(
    parts: Sequence[Part], records: Mapping[str, Record], left_out: Mapping[str, str], setting: Setting, command: str
) -> None:
    """Write both files to the folder of the report.

    Args:
        parts: All parts.
        records: Of those that ran, now or before.
        left_out: Why each of the others did not run.
        setting: What the parts were told.
        command: The command line to repeat it with.
    """
    values = report_values(parts, records, left_out, setting, command)
    write_text_whole(setting.out / JSON_NAME, json.dumps(values, indent=1, allow_nan=False) + "\n")
    write_text_whole(setting.out / HTML_NAME, report_html(values))


def report_values(
    parts: Sequence[Part], records: Mapping[str, Record], left_out: Mapping[str, str], setting: Setting, command: str
) -> dict[str, Any]:
    """Everything in the report, as ``report.json`` has it; numbers that are not finite are texts."""
    described = []
    for part in parts:
        record = records.get(part.name)
        judgements = record.judgements if record else nothing_decided(part, left_out[part.name])
        described.append(
            {
                "part": part.name,
                "decides": part.decides,
                "status": record.status if record else "left out",
                "reason": record.reason if record else left_out[part.name],
                "seconds": record.seconds if record else None,
                "date": record.date if record else None,
                "claims": [_claim(judgement) for judgement in judgements],
                "numbers": record.numbers if record else {},
                "log": record.log if record else "",
            }
        )
    verdicts = Counter(claim["verdict"] for part in described for claim in part["claims"])
    facts = records["facts"].numbers.get("facts", {}) if "facts" in records else {}
    return _finite(
        {
            "rehearsal": setting.rehearsal,
            "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
            "environment": facts | environment() | {"command": command},
            "parts": described,
        }
    )


def _claim(judgement: Judgement) -> dict[str, str]:
    return {"claim": judgement.claim, "verdict": judgement.verdict, "found": judgement.found}


def _finite(value: Any) -> Any:
    """The same value with texts for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def report_html(values: Mapping[str, Any]) -> str:
    """The whole page, from the values of ``report.json``."""
    verdicts, facts = values["verdicts"], values["environment"]
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    texts = {
        "title": html.escape(f"l2o prove: {counted}"),
        "style": style() + asset("l2o_splat.prove", "report.css"),
        "heading": html.escape(counted),
        "lead": html.escape(
            f"{facts['machine']}, torch {facts['torch']}, gsplat {facts['gsplat']}, commit {facts['commit']}, "
            f"{facts['date']}."
        ),
        "command": html.escape(facts["command"]),
        "rehearsal": f'<p class="problems">{html.escape(REHEARSAL)}</p>' if values["rehearsal"] else "",
        "claims": "\n".join(_claim_row(claim, part) for part in values["parts"] for claim in part["claims"]),
        "charts": _charts({part["part"]: part["numbers"] for part in values["parts"]}),
        "environment": "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items()
        ),
        "parts": "\n".join(map(_part_details, values["parts"])),
    }
    return filled(asset("l2o_splat.prove", "report.html"), texts)


def _claim_row(claim: Mapping[str, str], part: Mapping[str, Any]) -> str:
    verdict = claim["verdict"]
    kind = "undecided" if verdict == "not decided" else verdict
    return (
        f'<tr><td class="verdict {kind}">{verdict}</td><td>{html.escape(claim["claim"])}</td>'
        f'<td>{html.escape(claim["found"])}</td><td><a href="#{part["part"]}">{part["part"]}</a></td></tr>'
    )


def _part_details(part: Mapping[str, Any]) -> str:
    took = f"{part['seconds']:.1f} s, {part['date']}" if part["seconds"] is not None else part["reason"]
    blocks = ""
    if part["numbers"]:
        blocks += f"<pre>{html.escape(json.dumps(part['numbers'], indent=1))}</pre>"
    if part["log"]:
        blocks += f"<p>The end of its output:</p><pre>{html.escape(part['log'])}</pre>"
    return (
        f'<details id="{part["part"]}"><summary>{part["part"]} <span>{html.escape(part["status"])}; '
        f"{html.escape(took)}</span></summary><p>{html.escape(part['decides'])}</p>{blocks}</details>"
    )


def _charts(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """The curves over seconds and that of garden, where they were measured."""
    over_seconds = {
        part.name.removeprefix("curve-"): _points(numbers[part.name]["curve"], 1)
        for part in LEAD
        if "curve" in numbers.get(part.name, {})
    }
    found = [("Held-out PSNR over seconds", chart(over_seconds, "seconds on the clock", "PSNR, dB"))]
    garden = numbers.get(GARDEN.name, {})
    if "curve" in garden:
        curves = {"this machine": _points(garden["curve"], 0), "published": list(PUBLISHED.items())}
        found.append(("Learn2Splat on garden", chart(curves, "steps", "PSNR, dB")))
    return "\n".join(
        f"<section><h2>{html.escape(title)}</h2><figure>{drawing}</figure></section>"
        for title, drawing in found
        if drawing
    )


def _points(curve: Sequence[Sequence[Any]], column: int) -> list[tuple[float, float]]:
    """Points of a curve of steps, seconds and PSNR, over one of the first two."""
    return [(float(point[column]), float(point[2])) for point in curve]
