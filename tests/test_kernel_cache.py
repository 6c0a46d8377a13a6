"""Machine code is shared by whoever has the same sources, and by nobody else."""

import os
import subprocess
import sys
from pathlib import Path

from l2o_splat import kernel_cache

ROOT = Path(__file__).resolve().parents[1]

SOURCES = {
    "__init__.py": "",
    "constants.py": "FACTOR = 2\n",
    "doubling.py": """
from l2o_splat.kernel import helper, kernel
from twice.constants import FACTOR

@helper
def times(x):
    return FACTOR * x

@kernel
def double(x):
    return times(x)
""",
}
DOUBLE = """
import numpy as np
from twice.doubling import double
print(double(3), double(1.5), sum(double.stats.cache_hits.values()), sum(double.stats.cache_misses.values()))
"""


def write(folder: Path, **changed: str) -> Path:
    """A package of one kernel, with a constant and a helper."""
    package = folder / "twice"
    package.mkdir(parents=True)
    for name, text in SOURCES.items():
        (package / name).write_text(changed.get(name.removesuffix(".py"), text))
    return folder


def double(folder: Path, cache: Path | None, code: str = DOUBLE, **variables: str) -> list[str]:
    """Run the kernel for an integer and for a float in a process of its own; results, cache hits and misses."""
    variables["PYTHONPATH"] = f"{folder}{os.pathsep}{ROOT}"
    if cache is not None:
        variables["NUMBA_CACHE_DIR"] = str(cache)
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_same_sources_elsewhere_share_machine_code_and_edited_ones_do_not(tmp_path):
    here, there = write(tmp_path / "here"), write(tmp_path / "there")
    assert double(here, tmp_path / "cache") == ["6", "3.0", "0", "2"]
    assert double(there, tmp_path / "cache") == ["6", "3.0", "2", "0"]
    edited = write(tmp_path / "edited", constants="FACTOR = 3\n")
    assert double(edited, tmp_path / "cache") == ["9", "4.5", "0", "2"]
    assert double(here, tmp_path / "cache") == ["6", "3.0", "2", "0"]
    folders = sorted(path.name.partition("-")[0] for path in (tmp_path / "cache" / "l2o_splat").iterdir())
    assert folders == ["twice", "twice"]


def test_machine_code_is_kept_in_the_cache_folder_of_the_user(tmp_path):
    package = write(tmp_path / "here")
    for hits in ("0", "2"):
        assert double(package, None, XDG_CACHE_HOME=str(tmp_path / "home"))[2] == hits
    assert list((tmp_path / "home" / "l2o_splat" / "kernels").glob("twice-*/*.nbc"))
    assert not list(package.rglob("*.nbc"))


def test_another_numba_keeps_machine_code_beside_the_sources(tmp_path):
    package = write(tmp_path / "here")
    for hits in ("0", "2"):
        code = f"import numba.core.caching\ndel numba.core.caching._CacheLocator\n{DOUBLE}"
        assert double(package, None, code, XDG_CACHE_HOME=str(tmp_path / "home"))[:3] == ["6", "3.0", hits]
    assert list(package.rglob("*.nbc"))


def test_folders_that_nobody_used_for_a_month_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_cache.numba.config, "CACHE_DIR", str(tmp_path))
    kernel_cache._claim.cache_clear()
    old, recent = tmp_path / "l2o_splat" / "old", tmp_path / "l2o_splat" / "recent"
    for folder, days in ((old, 31), (recent, 29)):
        folder.mkdir(parents=True)
        (folder / "code.nbc").write_text("")
        moment = folder.stat().st_mtime - days * 24 * 3600
        os.utime(folder, (moment, moment))
    own = kernel_cache.machine_code_folder(write)
    assert own.is_dir() and recent.is_dir() and not old.exists()
    kernel_cache._claim.cache_clear()


def test_without_a_folder_to_write_to_kernels_are_compiled_every_time(tmp_path):
    package, file = write(tmp_path / "here"), tmp_path / "file"
    for path in (file, package / "twice" / "__pycache__"):
        path.write_text("a file where a folder is needed")
    code = f"import warnings\nwarnings.showwarning = lambda message, *_: print(message)\n{DOUBLE}"
    for _ in range(2):
        printed = " ".join(double(package, file, code, XDG_CACHE_HOME=str(file)))
        assert "No folder can be written to keep compiled kernels in" in printed
        assert printed.endswith("6 3.0 0 2")
