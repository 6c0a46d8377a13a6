"""The checkout that this package belongs to, whose tests and benchmarks some parts run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from l2o_splat.prove.errors import UndecidedError

ROOT = Path(__file__).resolve().parents[2]


def missing_folder(name: str) -> str:
    """What is missing if the checkout has no such folder; empty if it has."""
    return "" if (ROOT / name).is_dir() else f"a checkout of l2o_splat with its folder {name}/"


def run_python(words: Sequence[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python in the checkout, with the package of the checkout; its output is printed as well."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path} | (environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(done.stdout, flush=True)
    return done


def tables_of(script: str, words: Sequence[str]) -> list[list[dict[str, str]]]:
    """Run a benchmark; the rows of each table that it prints, by column.

    Raises:
        UndecidedError: If the benchmark fails or prints no table.
    """
    done = run_python([script, *words])
    if done.returncode:
        raise UndecidedError(f"{script} ended with status {done.returncode}: {last_line(done.stdout)}")
    tables = read_tables(done.stdout)
    if not tables:
        raise UndecidedError(f"{script} printed no table.")
    return tables


def read_tables(text: str) -> list[list[dict[str, str]]]:
    """The rows of each markdown table in a text, by column; emphasis is left out."""
    tables, header = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip().replace("*", "") for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
            tables.append([])
        elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            tables[-1].append(dict(zip(header, cells, strict=True)))
    return tables


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a message"
