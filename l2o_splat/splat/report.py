"""``report.html``: what a splat was made of, how good it is, and what to do next; one file that needs no network."""

from __future__ import annotations

import base64
import html
import io
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from l2o_splat.bench.page import asset, filled, style
from l2o_splat.bench.pictures import HeldOutView
from l2o_splat.files import write_text_whole
from l2o_splat.prove.chart import chart

REPORT_NAME = "report.html"
MAX_WIDTH = 720
"""Width of a picture, pixels; wider ones are reduced."""


@dataclass(frozen=True)
class Report:
    """Everything that the page says."""

    title: str
    lead: str
    """One sentence: quality, number of Gaussians, time."""
    command: Sequence[str]
    """The command line that made it."""
    files: Mapping[str, str]
    """Names of the files beside the report, and what each is for."""
    pairs: Sequence[HeldOutView]
    curve: Sequence[tuple[float, float]]
    """Seconds of training and PSNR on the held-out photographs, dB."""
    capture: Sequence[tuple[str, bool]]
    """Lines on the capture, and whether each is good; empty if nothing is known."""
    facts: Mapping[str, str]
    next: Mapping[str, Sequence[str]]
    """Further things to do, and the command line of each."""


def write_report(path: Path, report: Report) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    write_text_whole(path, report_html(report))


def report_html(report: Report) -> str:
    """The page as a text."""
    files = "".join(
        f'<li><a href="{html.escape(name)}">{html.escape(name)}</a>: {html.escape(use)}</li>'
        for name, use in report.files.items()
    )
    explained = (
        "Photographs that were held out of training (left), and the splat from the same cameras (right)."
        if report.pairs
        else "No photograph was held out, so there is no quality to show."
    )
    return filled(
        asset("l2o_splat.splat", "report.html"),
        {
            "title": html.escape(f"{report.title}: l2o splat"),
            "style": style(),
            "heading": html.escape(report.title),
            "lead": html.escape(report.lead),
            "command": html.escape(shlex.join(report.command)),
            "files": files,
            "pictures-explained": explained,
            "pictures": "\n".join(_pair(pair) for pair in report.pairs),
            "curve": _curve(report.curve),
            "capture": _capture(report.capture),
            "facts": _list({name: html.escape(value) for name, value in report.facts.items()}),
            "next": _list(
                {name: f"<code>{html.escape(shlex.join(words))}</code>" for name, words in report.next.items()}
            ),
        },
    )


def _pair(pair: HeldOutView) -> str:
    quality = "" if pair.psnr is None else f", {pair.psnr:.2f} dB"
    name = html.escape(pair.name)
    images = "".join(
        f'<img src="{_data_uri(image)}" alt="{what} of {name}" loading="lazy">'
        for what, image in (("photograph", pair.photograph), ("splat", pair.drawn))
    )
    return f'<figure><div class="pair">{images}</div><figcaption>{name}{quality}</figcaption></figure>'


def _data_uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
    picture, content = Image.fromarray(image), io.BytesIO()
    if picture.width > MAX_WIDTH:
        size = (MAX_WIDTH, round(picture.height * MAX_WIDTH / picture.width))
        picture = picture.resize(size, Image.Resampling.BOX)
    picture.save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _curve(points: Sequence[tuple[float, float]]) -> str:
    if len(points) < 2:
        return ""
    drawn = chart({"held out": points}, "seconds of training", "PSNR (dB)")
    return f'<section id="curve"><h2>Quality over time</h2>{drawn}</section>'


def _capture(lines: Sequence[tuple[str, bool]]) -> str:
    if not lines:
        return ""
    items = "".join(
        f"<li{'' if good else ' class=' + chr(34) + 'note' + chr(34)}>{html.escape(line)}</li>" for line, good in lines
    )
    return f'<section id="capture"><h2>The photographs</h2><ul class="files">{items}</ul></section>'


def _list(entries: Mapping[str, str]) -> str:
    return "".join(f"<dt>{html.escape(name)}</dt><dd>{value}</dd>" for name, value in entries.items())
