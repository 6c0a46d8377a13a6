"""The report: one HTML file that needs no network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

from l2o_splat.bench.measures import MEASURED, Results, curve
from l2o_splat.bench.page import asset, filled, style
from l2o_splat.bench.pictures import ERROR_AT_TOP, Pictures
from l2o_splat.bench.suites.rules_tables import rules_tables
from l2o_splat.bench.suites.table import beside_papers
from l2o_splat.bench.tables import BETTER, QUALITY_DIGITS, QUALITY_NAMES, Entry, Table, all_tables
from l2o_splat.budget.clock import other_clock
from l2o_splat.files import write_text_whole

REPORT_NAME = "report.html"

QUALITY_UNITS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS, lower is better",
    "num_gaussians": "number of Gaussians",
}

RULES = (
    "<b>Same start, same loop.</b> Every run is a registered nerfstudio method in nerfstudio's own trainer, in a "
    "process of its own; capture, image size, split and measures are the same for all.",
    "<b>On the clock:</b> the initializer, and every training step from its views to the end of the update: neighbour "
    "search, render, loss, backward, optimizer, densification.",
    "<b>Not on the clock:</b> evaluation, checkpoints, reading and scaling images (reported apart), compiling the "
    "renderer, and what the first step takes beyond the median of the five after it (both reported as compile time). "
    "On a GPU times come from "
    "CUDA events, synchronised before and after each step.",
    "<b>Two clocks.</b> Seconds of the run's clock (<code>--clock</code>) decide ends, budgets and equal time; those "
    "of the other stand beside them. Seconds of the wall grow with whatever else a machine does, seconds of the "
    "processors (all threads of the run together) hardly do.",
    "<b>Step 0</b> is after initialization, before any update. A value at a clock time is the last evaluation before "
    "it.",
    "<b>Seeds</b> change the order of views and random initialization. Numbers are medians over seeds; a mean over "
    "scenes is taken per seed first.",
    "<b>A failed run counts as failed:</b> where one is missing there is no number but the count of failures.",
    "<b>PSNR, SSIM and LPIPS</b> (AlexNet) are means over the held-out views, with renders clamped to 0..1.",
)


def write_report(results: Results, out: Path, pictures: Pictures) -> None:
    """Write ``report.html``.

    Args:
        results: All runs.
        out: Folder of the report.
        pictures: From :func:`find_pictures`; empty leaves images out.
    """
    write_text_whole(out / REPORT_NAME, report_html(results, pictures))


def report_html(results: Results, pictures: Pictures) -> str:
    """Return the whole page."""
    shown, blobs = _embedded(pictures)
    data = {
        "scenes": results.scene_groups,
        "methods": results.methods,
        "qualities": _qualities(results),
        "clocks": {"seconds": results.clock, "other_seconds": other_clock(results.clock)},
        "curves": {
            scene: {
                method: {quality: curve(results, scene, method, quality) for quality in MEASURED}
                for method in results.methods
            }
            for scene in results.scene_groups
        },
        "pictures": shown,
        "blobs": blobs,
    }
    names = " · ".join(results.methods)
    parts = {
        "title": html.escape(f"l2o bench: {names}"),
        "heading": html.escape(names if len(results.methods) <= 4 else f"{len(results.methods)} methods"),
        "lead": html.escape(_lead(results)),
        "command": html.escape(results.environment.get("command", "")),
        "problems": _problems(results),
        "tables": "\n".join(_table_html(table, results) for table in _tables(results)),
        "pictures": _pictures_html() if shown else "",
        "rules": f"<ul>{''.join(f'<li>{rule}</li>' for rule in RULES)}</ul>",
        "environment": "".join(
            _fact_html(name, value) for name, value in results.environment.items() if value is not None
        ),
        # "</" would end the script element.
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("</", "<\\/"),
        "style": style(),
        "script": asset("l2o_splat.bench", "report.js"),
    }
    return filled(asset("l2o_splat.bench", "report.html"), parts)


def _fact_html(name: str, value: object) -> str:
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"


def _tables(results: Results) -> list[Table]:
    papers = beside_papers(results)
    return [*rules_tables(results), *([] if papers is None else [papers]), *all_tables(results)]


def _lead(results: Results) -> str:
    counts = ((len(results.scenes), "scene"), (len(results.methods), "method"), (len(results.seeds), "seed"))
    counted = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)
    ok = sum(run.ok for run in results.runs)
    machines = sorted({run.machine for run in results.runs if run.machine})
    text = f"{counted}; {ok} of {len(results.runs)} runs came to a good end. {results.environment.get('date', '')}"
    text += f", {' and '.join(machines)}." if machines else "."
    if len(machines) > 1:
        text += " The machines differ, so compare step time ratios rather than seconds."
    commits = sorted({run.commit for run in results.runs if run.commit})
    if len(commits) > 1:
        text += f" The runs were made with different sources ({', '.join(commits)}); remove runs/ to make all anew."
    return text


def _problems(results: Results) -> str:
    """List every reason once, with the runs that it stopped."""
    stopped: dict[str, list[str]] = {}
    for run in results.runs:
        if not run.ok:
            status = run.status.replace("_", " ")
            stopped.setdefault(f"{run.method}: {status}: {run.reason}", []).append(f"{run.scene} seed {run.seed}")
    if not stopped:
        return ""
    items = (f"<li>{html.escape(reason)} ({html.escape(_few(where))})</li>" for reason, where in stopped.items())
    return f'<ul class="problems">{"".join(items)}</ul>'


def _few(names: Sequence[str], most: int = 4) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _qualities(results: Results) -> list[dict]:
    return [
        {
            "name": name,
            "title": QUALITY_NAMES[name],
            "unit": QUALITY_UNITS[name],
            "digits": QUALITY_DIGITS[name],
            "better": BETTER[name],
        }
        for name in MEASURED
        if results.shows(name)
    ]


def _table_html(table: Table, results: Results) -> str:
    quality = table.name.partition("-")[0]
    attributes = f' data-quality="{quality}"' if quality in MEASURED else ""
    heads = "".join(
        f'<th scope="col"{_class("text") if is_text else ""}><button type="button">{html.escape(title)}</button></th>'
        for title, is_text in zip(table.columns, _text_columns(table), strict=True)
    )
    rows = "\n".join(
        f"<tr{_scene(row[0].text, results)}>{''.join(_cell_html(entry, results) for entry in row)}</tr>"
        for row in table.rows
    )
    return (
        f'<section id="{table.name}"{attributes}><h2>{html.escape(table.title)}</h2>'
        f'<p class="explanation">{html.escape(table.explanation)}</p><div class="table-scroll">'
        f'<table class="numbers"><thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div></section>'
    )


def _scene(name: str, results: Results) -> str:
    """The attribute by which rows of other scenes are hidden; none for rows that belong to no scene."""
    return f' data-scene="{html.escape(name)}"' if name in results.scene_groups else ""


def _text_columns(table: Table) -> list[bool]:
    return [all(row[i].kind in ("text", "note") for row in table.rows) for i in range(len(table.columns))]


def _cell_html(entry: Entry, results: Results) -> str:
    kinds = {"number": "", "note": "note long" if len(entry.text) > 40 else "note"}
    kind = kinds.get(entry.kind, entry.kind)
    attributes = _class(kind) if kind else ""
    if entry.sort is not None:
        attributes += f' data-sort="{html.escape(str(entry.sort))}"'
    if entry.hint:
        attributes += f' title="{html.escape(entry.hint)}"'
    swatch = ""
    if entry.kind == "text" and entry.text in results.methods:
        swatch = f'<span class="swatch" style="background:var(--m{results.methods.index(entry.text) % 8})"></span>'
    return f"<td{attributes}>{swatch}{html.escape(entry.text)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"'


def _pictures_html() -> str:
    return (
        '<section id="pictures"><h2>Held-out views</h2><p class="explanation">First seed. Drag the line between left '
        "and right. In the small pictures: the photograph above the start, and each method's end above its error map "
        '(absolute error, mean over channels). <span class="error-scale">0 <span></span> '
        f'{ERROR_AT_TOP} and more</span></p><div id="picture-place"></div></section>'
    )


def _embedded(pictures: Pictures) -> tuple[dict, list[str]]:
    """Return pictures as indices into a list of data URIs, and the list, with each image once."""
    blobs: dict[str, int] = {}

    def index(path: Path) -> int:
        uri = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
        return blobs.setdefault(uri, len(blobs))

    shown = {
        scene: [
            {
                "name": name,
                "photograph": index(next(iter(kinds["photograph"].values()))),
                **{
                    kind: {method: index(path) for method, path in kinds[kind].items()}
                    for kind in ("start", "end", "error")
                },
            }
            for name, kinds in views.items()
        ]
        for scene, views in pictures.items()
    }
    return shown, list(blobs)
