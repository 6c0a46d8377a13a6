"""Where the shared captures are, for tests that need real photographs."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_capture(name: str) -> Path:
    """Folder of a shared capture; skips the test where there is none."""
    folder = SHARED / "data" / name
    if not folder.exists():
        pytest.skip(f"the capture {folder} is not on this machine")
    return folder
