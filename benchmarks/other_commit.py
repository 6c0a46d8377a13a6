"""The package at another commit, for benchmarks that compare it with this tree in one run."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"git {' '.join(words)} failed: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of a commit, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="l2o-before-") as folder:
        path = Path(folder).resolve() / "tree"
        git("worktree", "add", "--detach", str(path), commit)
        try:
            yield path
        finally:
            git("worktree", "remove", "--force", str(path))


def environment_of(tree: Path) -> dict[str, str]:
    """The environment of a process that imports the package of a tree."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]
    path = os.pathsep.join([str(tree), *others])
    environment = os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}
    environment.pop("OMP_NUM_THREADS", None)
    return environment


def check_package(package: str, tree: Path) -> None:
    """Refuse figures of a process that imported another package than that of its tree.

    Raises:
        SystemExit: If it did.
    """
    if Path(package) != tree / "l2o_splat":
        raise SystemExit(f"With PYTHONPATH={tree} another l2o_splat is imported, so nothing is compared.")
