"""What pages share: their style, and templates that are filled in."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from l2o_splat.bench.pictures import ERROR_COLOURS


def asset(room: str, name: str) -> str:
    """The text of a file beside the modules of a room."""
    return files(room).joinpath(name).read_text(encoding="utf-8")


def style() -> str:
    """The style sheet."""
    gradient = ", ".join(f"rgb({', '.join(map(str, colour))})" for colour in ERROR_COLOURS.tolist())
    return asset("l2o_splat.bench", "report.css").replace("{{error-gradient}}", gradient)


def filled(page: str, texts: Mapping[str, str]) -> str:
    """A template with a text in each place; places follow each other in the order of the texts."""
    for name, text in texts.items():
        before, _, after = page.partition("{{" + name + "}}")
        page = before + text + after
    return page
