"""What the poses say about the photographs, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def capture_lines(posed: Mapping[str, Any] | None) -> list[tuple[str, bool]]:
    """Lines on a posed capture, and whether each is good; empty if it came with poses."""
    if posed is None:
        return []
    return []
