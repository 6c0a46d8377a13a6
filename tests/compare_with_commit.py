"""Compare the numbers of this tree with those of another commit, bit for bit, on the CPU.

    python tests/compare_with_commit.py 049c07d
    python tests/compare_with_commit.py 049c07d --only learn2splat bench --keep /tmp/numbers

Small commands run in both trees at the same time, each in a process of one thread with ``PYTHONPATH`` set to its tree,
in the environment of the Python that runs this script. Entry points are those of the installed package, so both trees
need the modules that those name. The exit status is 1 if a number differs that is not listed in ``EXPECTED``, or if a
command fails. This is a script and no test: it takes minutes, and it needs the history of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData
from safetensors.numpy import load_file

RENAMED: dict[str, str] = {}
"""Words of commands and patterns of output files (all below are of the old tree): old spelling, new spelling."""

RENAMED_TENSORS: list[tuple[str, str]] = []
"""Tensors in weights and checkpoints: regular expression for an old name, replacement that gives the new name."""

PLAIN = "--preset=plain"
"""What the commands with ``{plain}`` are told in the new tree, so that it does what trees without presets do."""

EXPECTED: dict[str, str] = {}
"""Comparisons that may differ, as "command: what" with wildcards, and why."""

NOT_COMPARED = ("second", "memory", "time", "waited")
"""Numbers with these words in their names depend on the machine's speed."""

DATA = "l2o-demo --seed 1 --width 120 --height 80 --num-views 16 --num-points 600"
RANDOM_START = "--pipeline.initialization.source random --pipeline.initialization.num-points 500"
FROM_POINTS = "--pipeline.initialization.source sfm"
FEW_CONTEXT_VIEWS = "--pipeline.initialization.context.num-views 3"
OPTIMIZER = "--optimizers.gaussians.optimizer"
FINISHED = f"{OPTIMIZER}.finish-with learn2splat {OPTIMIZER}.finish-after 2"
EXPORT = ("ns-export", "gaussian-splat", "--load-config", "{before}/config.yml", "--output-dir", "{out}")
TINY_BENCH = (
    "bench --data {capture} --methods 'l2o-adam-tuned {plain}' 'learn2splat {plain}' --steps 4 --no-images "
    "--cores-per-run 1"
)
TINY_META_TRAINING = (
    "--training.iterations 4 --training.rollout-steps 4 --training.episode.context-views 5 6 "
    "--training.episode.max-points 300 --data.ranges.short-side 32 32 --data.ranges.long-side 48 48 "
    "--data.ranges.num-views 9 9 --data.ranges.num-points 300 300 --data.validation-captures 1 "
    "--schedule.evaluate-every 2 --schedule.workers 0 --accelerator cpu"
)
TINY_INITIALIZER_TRAINING = (
    "--training.iterations 3 --data.captures 2 --data.validation-captures 1 --validation-views 2 "
    "--data.options.sizes 64 64 --data.options.num-views 6 6 --data.options.num-points 300 300 "
    "--training.batch.context-views 2 2 --training.batch.target-views 1 --schedule.evaluate-every 3 --accelerator cpu"
)
TINY_UPDATE = "--stage update --weights resplat-mini --steps 1 2"
TINY_REFINEMENT = (
    "--through-optimization --weights resplat-mini --refinement.steps 3 6 --refinement.evaluated-steps 6 "
    "--refinement.reference-scenes 2"
)


@dataclass(frozen=True)
class Command:
    """What runs in both trees, and which of its results are compared."""

    name: str
    words: tuple[str, ...]
    """``{out}`` is the folder of its results, ``{before}`` the run folder of ``after``, ``{capture}`` that of DATA,
    ``{plain}`` is ``PLAIN`` in the new tree."""
    results: str
    """Which function below reads the results: ``checkpoint``, ``ply``, ``report`` or ``training``."""
    after: str | None = None
    """The command whose results it needs."""


def ns_train(name: str, method: str, options: str = "", steps: int = 6, after: str | None = None) -> Command:
    """A short run of a method on DATA."""
    fixed = "--output-dir {out} --experiment-name demo --timestamp run --vis tensorboard --machine.device-type cpu"
    resumed = "--load-dir {before}/nerfstudio_models" if after else ""
    words = f"ns-train {method} {{plain}} {fixed} --max-num-iterations {steps} {resumed} {options} {DATA}"
    return Command(name, tuple(words.split()), "checkpoint", after)


def l2o(name: str, options: str, results: str = "training", after: str | None = None) -> Command:
    """A subcommand of l2o, with its results in ``--out``."""
    return Command(name, ("l2o", *shlex.split(options), "--out", "{out}"), results, after)


COMMANDS = [
    ns_train("l2o-adam", "l2o-adam"),
    ns_train("l2o-adam-tuned", "l2o-adam-tuned"),
    ns_train("l2o-adam-tuned-resumed", "l2o-adam-tuned", after="l2o-adam-tuned"),
    ns_train("l2o-adam-random-start", "l2o-adam", RANDOM_START),
    ns_train("learn2splat", "learn2splat"),
    ns_train("learn2splat-resumed", "learn2splat", after="learn2splat"),
    ns_train("learn2splat-safeguarded", "learn2splat", f"{OPTIMIZER}.safeguard True"),
    ns_train("learn2splat-untrained", "learn2splat", f"{OPTIMIZER}.weights random:0"),
    ns_train("resplat", "resplat", steps=4),
    ns_train("resplat-from-points", "resplat", FROM_POINTS, steps=4),
    ns_train("resplat-finished", "resplat", f"{FEW_CONTEXT_VIEWS} {FINISHED}"),
    ns_train("resplat-finished-resumed", "resplat", f"{FEW_CONTEXT_VIEWS} {FINISHED}", 3, after="resplat-finished"),
    ns_train("resplat-then-adam", "l2o-adam-tuned", f"--pipeline.initialization.source resplat {FEW_CONTEXT_VIEWS}"),
    ns_train("diff3r", "diff3r"),
    ns_train("diff3r-resumed", "diff3r", after="diff3r"),
    ns_train("diff3r-from-points", "diff3r", f"{FROM_POINTS} --pipeline.model.uncertainty laplace"),
    Command("export", EXPORT, "ply", "l2o-adam-tuned"),
    l2o("bench", TINY_BENCH, "report", "l2o-adam-tuned"),
    l2o("meta-train", f"meta-train {TINY_META_TRAINING}"),
    l2o("train-initializer", f"train-initializer {TINY_INITIALIZER_TRAINING}"),
    l2o("train-initializer-update", f"train-initializer {TINY_INITIALIZER_TRAINING} {TINY_UPDATE}"),
    l2o("train-initializer-head", f"train-initializer {TINY_INITIALIZER_TRAINING} {TINY_REFINEMENT}"),
]

Numbers = dict[str, np.ndarray]


class Failure(RuntimeError):
    """A command, or reading its results, failed; the message says why."""


class Tree:
    """A checkout with a folder for its results."""

    def __init__(self, path: Path, results: Path, new: bool, timeout: float) -> None:
        self.path, self.results, self.new, self.timeout = path.resolve(), results.resolve(), new, timeout
        self.results.mkdir(parents=True, exist_ok=True)
        self.environment = os.environ | {
            "PYTHONPATH": str(self.path),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",  # The renderer takes as many threads as torch.
            "CUDA_VISIBLE_DEVICES": "",
            "L2O_SPLAT_CACHE": str(self.results / "cache"),
            "COLUMNS": "300",  # Otherwise printed lines are broken.
            "PYTHONWARNINGS": "ignore",
        }
        self.commit = git(self.path, "rev-parse", "HEAD")
        imported = self._call([sys.executable, "-c", "import l2o_splat; print(l2o_splat.__file__)"], self.results)
        if Path(imported.strip()) != self.path / "l2o_splat/__init__.py":
            raise SystemExit(f"With PYTHONPATH={self.path} Python imports {imported.strip()}, so nothing is compared.")

    def run(self, command: Command) -> None:
        """Run it, unless an earlier comparison has kept the results of this commit.

        Raises:
            Failure: If it fails or takes too long.
        """
        out, done = self.results / command.name, self.results / f"{command.name}.json"
        key = json.dumps([self.commit, command.words])
        if not self.new and done.is_file() and done.read_text() == key:
            return
        done.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        values = {"out": out, "plain": PLAIN if self.new else ""}
        if command.after:
            values["before"] = self.find(command.after, "*/*/run")
            values["capture"] = self.find("cache", "captures/*")
        words = [self.spelled(word).format(**values).strip() for word in command.words]
        (self.results / f"{command.name}.txt").write_text(self._call([word for word in words if word], out))
        done.write_text(key)

    def spelled(self, word: str) -> str:
        """A word of the old tree as this tree spells it."""
        return RENAMED.get(word, word) if self.new else word

    def find(self, name: str, pattern: str) -> Path:
        """The last result of a command that fits a pattern."""
        found = sorted((self.results / name).glob(self.spelled(pattern)))
        if not found:
            raise Failure(f"{name} has left no {self.spelled(pattern)}")
        return found[-1]

    def renamed(self, tensors: Mapping[str, np.ndarray]) -> Numbers:
        """Tensors under their names in the new tree."""
        for pattern, replacement in [] if self.new else RENAMED_TENSORS:
            tensors = {re.sub(pattern, replacement, name): value for name, value in tensors.items()}
        return dict(tensors)

    def _call(self, words: list[str], folder: Path) -> str:
        where = {"cwd": folder, "env": self.environment}
        try:
            done = subprocess.run(words, timeout=self.timeout, capture_output=True, text=True, **where)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"took more than {self.timeout:.0f} s") from error
        if done.returncode != 0:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise Failure(" ".join(lines[-3:])[-300:] or f"exit status {done.returncode}")
        return done.stdout


def checkpoint(tree: Tree, name: str) -> dict[str, Numbers]:
    """Parameters and buffers of the last checkpoint, and the held-out quality that was printed."""
    saved = torch.load(tree.find(name, "*/*/run/*/*.ckpt"), weights_only=True)["pipeline"]
    tensors = tree.renamed({key: value.numpy() for key, value in saved.items() if isinstance(value, torch.Tensor)})
    gaussians = {key: tensors.pop(key) for key in list(tensors) if "gauss_params" in key}
    printed = re.findall(r"PSNR ([\d.]+) dB, SSIM ([\d.]+)", (tree.results / f"{name}.txt").read_text())
    if not gaussians or not printed:
        raise Failure(f"{len(gaussians)} tensors in the checkpoint, {len(printed)} lines with the held-out quality")
    quality = {f"evaluation {i}": np.array(values, float) for i, values in enumerate(printed)}
    return {"gauss_params": gaussians, "other tensors": tensors, "printed quality": quality}


def ply(tree: Tree, name: str) -> dict[str, Numbers]:
    """Columns of the exported scene."""
    vertices = PlyData.read(tree.find(name, "*.ply"))["vertex"].data
    return {"vertices": {column: np.ascontiguousarray(vertices[column]) for column in vertices.dtype.names}}


def report(tree: Tree, name: str) -> dict[str, Numbers]:
    """Numbers of the bench that are no times."""
    runs = json.loads(tree.find(name, "results.json").read_text())["runs"]
    if [run["status"] for run in runs] != ["ok", "ok"]:
        raise Failure(f"runs ended as {[(run['status'], run.get('reason')) for run in runs]}")
    return {"results": dict(numbers_in(runs))}


def training(tree: Tree, name: str) -> dict[str, Numbers]:
    """Weights that were written, those of the saved state in full precision, and the curve."""
    files = ("best.safetensors", "last.safetensors")
    results = {file: tree.renamed(load_file(tree.find(name, file))) for file in files}
    state = torch.load(tree.find(name, "states/*/shared.pt"), weights_only=True)
    for part in ("network", "average"):
        results[f"saved {part}"] = tree.renamed({key: value.numpy() for key, value in state[part].items()})
    curve = tree.find(name, "curve.jsonl").read_text().splitlines()
    return results | {"curve": dict(numbers_in([json.loads(line) for line in curve]))}


READERS = {reader.__name__: reader for reader in (checkpoint, ply, report, training)}


def numbers_in(values: object, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """All numbers in nested lists and dicts of JSON, but those that depend on the machine."""
    if any(word in name for word in NOT_COMPARED):
        return
    if isinstance(values, dict):
        for key, value in values.items():
            yield from numbers_in(value, f"{name}.{key}")
    elif isinstance(values, list):
        for i, value in enumerate(values):
            yield from numbers_in(value, f"{name}.{i}")
    elif isinstance(values, int | float):
        yield name, np.array(values)


def difference(old: Numbers, new: Numbers) -> str:
    """``same``, or what differs most."""
    if old.keys() != new.keys():
        return f"differs (only old: {sorted(old.keys() - new.keys())}, only new: {sorted(new.keys() - old.keys())})"
    worst, outcome = -1.0, f"same ({len(old)} compared)"
    for name, before in old.items():
        after = new[name]
        if (before.shape, before.dtype) != (after.shape, after.dtype):
            return f"differs ({name}: {before.dtype} {before.shape} became {after.dtype} {after.shape})"
        gap = np.nan_to_num(np.abs(before.astype(float) - after.astype(float)), nan=np.inf).max(initial=0)
        if before.tobytes() != after.tobytes() and gap > worst:
            worst, outcome = gap, f"differs (max abs difference {gap:.3g} in {name})"
    return outcome


def compare(command: Command, old: Tree, new: Tree) -> Iterator[tuple[str, str]]:
    """Run a command in both trees; what was compared, and the outcome."""
    with ThreadPoolExecutor(2) as pool:
        jobs = {tree: pool.submit(tree.run, command) for tree in (old, new)}
    results = []
    for tree, job in jobs.items():
        try:
            job.result()
            results.append(READERS[command.results](tree, command.name))
        except (Failure, OSError, KeyError, ValueError) as error:
            yield f"{command.name}: {'new' if tree.new else 'old'} tree", f"failed ({error!r})"
    if len(results) == 2:
        for what in results[0]:
            yield f"{command.name}: {what}", difference(results[0][what], results[1][what])


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"git {' '.join(words)} in {folder} failed: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def checkout(root: Path, commit: str, tree: Path | None) -> Iterator[Path]:
    """The tree, if one is given, or a worktree of the commit, removed afterwards."""
    if tree is not None:
        if (found := git(tree, "rev-parse", "HEAD")) != commit:
            raise SystemExit(f"--tree {tree} is at {found}, not at {commit}; check that commit out there.")
        yield tree
        return
    with tempfile.TemporaryDirectory(prefix="l2o-commit-") as folder:
        path = Path(folder) / commit[:12]
        git(root, "worktree", "add", "--detach", str(path), commit)
        try:
            yield path
        finally:
            git(root, "worktree", "remove", "--force", str(path))


def chosen(names: list[str] | None) -> list[Command]:
    """The commands with these names, and before them those whose results they need."""
    known = {command.name: command for command in COMMANDS}
    wanted = list(names or known)
    if unknown := set(wanted) - known.keys():
        raise SystemExit(f"There are no commands {sorted(unknown)}; known are {', '.join(known)}.")
    for name in wanted:  # Grows while it is walked.
        if known[name].after and known[name].after not in wanted:
            wanted.append(known[name].after)
    return [command for command in COMMANDS if command.name in wanted]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="the commit to compare with")
    parser.add_argument("--tree", type=Path, help="a checkout of that commit; without, one is made and removed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="compare these commands (and those they need)")
    parser.add_argument("--keep", type=Path, help="keep results here; those of the commit are used again")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one command")
    options = parser.parse_args()
    root, begin, unexpected = Path(__file__).resolve().parents[1], time.perf_counter(), 0
    commands = chosen(options.only)
    commit = git(root, "rev-parse", f"{options.commit}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="l2o-compare-") as folder, checkout(root, commit, options.tree) as path:
        results = options.keep or Path(folder)
        old = Tree(path, results / "old", False, options.timeout)
        new = Tree(root, results / "new", True, options.timeout)
        for command in commands:
            for what, outcome in compare(command, old, new):
                if not outcome.startswith("same"):
                    reasons = [reason for pattern, reason in EXPECTED.items() if fnmatchcase(what, pattern)]
                    unexpected += not reasons
                    outcome += f" AS EXPECTED: {reasons[0]}" if reasons else ""
                print(f"{what}: {outcome}", flush=True)
    print(f"{unexpected} unexpected outcomes, {time.perf_counter() - begin:.0f} s.")
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main())
