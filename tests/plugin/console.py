"""What a run says on the console, and how it refuses."""

from __future__ import annotations

import re

import pytest

from tests.plugin.captures import train


def refuse(config, expected: str) -> None:
    """A run must end with a sentence like this one, before there is a checkpoint."""
    with pytest.raises(SystemExit, match=expected):
        train(config)
    assert not list(config.get_base_dir().rglob("*.ckpt"))


def printed(capsys) -> str:
    """What the run printed, without line breaks and the places in the code that rich puts between."""
    return " ".join(re.sub(r"\w+\.py:\d+", " ", capsys.readouterr().out).split())
