"""The environment that is written into reports and weights."""

import shutil
import subprocess
from pathlib import Path

import pytest

from l2o_splat.environment import PACKAGES, commit, environment

ROOT = Path(__file__).resolve().parents[1]


def test_commit_is_that_of_the_sources():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a checkout")
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert commit().removesuffix(" with changes") == head.stdout[:12]


def test_versions_of_all_packages_are_named():
    found = environment()
    assert {"command", "commit", "machine", *PACKAGES} <= found.keys()
    assert found["torch"][0].isdigit()
