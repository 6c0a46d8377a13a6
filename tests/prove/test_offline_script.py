"""The script for a machine without a network, with one wheel that stands in for all."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/prove_offline.sh"


def write_wheel(folder):
    """A package with nothing but the number 7."""
    folder.mkdir()
    info = "stand_in-1.0.dist-info"
    with zipfile.ZipFile(folder / "stand_in-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stand_in.py", "SEVEN = 7\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return folder


def run(*words, site):
    environment = os.environ | {"PYTHON": sys.executable, "SITE": str(site)}
    return subprocess.run(["bash", SCRIPT, *map(str, words)], env=environment, capture_output=True, text=True)


def test_wheels_are_installed_and_the_command_gets_its_options(tmp_path):
    wheels = write_wheel(tmp_path / "wheels")
    done = run(wheels, "--list", "--only", "facts", site=tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("facts (about") and "garden" not in done.stdout
    assert (tmp_path / "site/stand_in.py").read_text() == "SEVEN = 7\n"
    (wheels / "stand_in-1.0-py3-none-any.whl").unlink()  # A second run needs no wheels.
    done = run(wheels, "--only", "nothing", site=tmp_path / "site")
    assert done.returncode == 1 and "--only nothing: there is no such part" in done.stderr


def test_the_methods_are_those_of_the_package():
    """Where nothing is installed, variables stand for the entry points."""
    tomllib = pytest.importorskip("tomllib")  # From Python 3.11 on.
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    script = SCRIPT.read_text().replace("$configs", "l2o_splat.plugin.configs")
    for group in ("nerfstudio.method_configs", "nerfstudio.dataparser_configs"):
        for name, place in points[group].items():
            assert f"{name}={place}" in script


def test_without_wheels_it_says_how_it_is_used(tmp_path):
    done = run(site=tmp_path / "site")
    assert done.returncode == 1 and "usage: prove_offline.sh WHEELS" in done.stderr
