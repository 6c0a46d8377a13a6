"""The tests that need a card."""

from __future__ import annotations

import importlib.util
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from l2o_splat.prove.checkout import ROOT, last_line, missing_folder, run_python
from l2o_splat.prove.errors import UndecidedError
from l2o_splat.prove.part import Judgement, Numbers, Part, Setting, judged, undecided

CLAIM = "Every test marked gpu passes"
MARKER = "mark.gpu"


def measure(setting: Setting) -> Numbers:
    """How many passed, and which failed or were skipped.

    Raises:
        UndecidedError: If pytest is not installed or came to no end.
    """
    if importlib.util.find_spec("pytest") is None:
        raise UndecidedError("pytest is not installed: pip install pytest")
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARKER in path.read_text()]
    names = [path.relative_to(ROOT).as_posix() for path in files]
    with tempfile.TemporaryDirectory(prefix="l2o-prove-") as folder:
        results = Path(folder) / "results.xml"
        words = ["-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider", f"--junitxml={results}", *names]
        done = run_python(words)
        if not results.exists():
            raise UndecidedError(f"pytest came to no end: {last_line(done.stdout)}")
        return read_results(results)


def read_results(path: Path) -> Numbers:
    """Count the tests of a JUnit file."""
    passed, failed, skipped = 0, [], []
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif (skip := case.find("skipped")) is not None:
            skipped.append(f"{name}: {skip.get('message')}")
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": skipped}


def judge(numbers: Numbers) -> list[Judgement]:
    passed, failed, skipped = (numbers[name] for name in ("passed", "failed", "skipped"))
    count = f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped"
    if failed:
        return [judged(CLAIM, False, f"{count}: {', '.join(failed)}")]
    if skipped or not passed:
        return [undecided(CLAIM, f"{count}; {'; '.join(skipped[:2]) or 'no test was found'}")]
    return [judged(CLAIM, True, count)]


GPU_TESTS = Part(
    "gpu-tests",
    "The tests that run on a card alone: renderer, neighbour search, initial model, clock.",
    (CLAIM,),
    2,
    measure,
    judge,
    missing=lambda setting: missing_folder("tests"),
)
