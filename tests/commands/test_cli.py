"""The table of subcommands, and expected errors as one sentence."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys

import pytest

import l2o_splat
from l2o_splat import cli
from l2o_splat.commands.check import Check
from l2o_splat.errors import L2OError

INTERNAL = {"UnusableCaptureError", "DivergedEpisodeError", "NotForPillowError"}
"""Signals within the two trainings, which handle them."""


def test_help_lists_every_subcommand(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    assert f"{{{','.join(cli.COMMANDS)}}}" in capsys.readouterr().out.replace("\n", "")


SLOW = ("torch", "numba", "matplotlib", "scipy", "nerfstudio")
"""Packages that take seconds to import."""


def ends_of(commands: list[list[str]]) -> list[tuple[int, list[str]]]:
    """Exit status of each `l2o WORDS`, and which slow packages are imported then; all of them in one process."""
    code = f"""
import contextlib, io, json, sys
from l2o_splat import cli
ends = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main(words)
        except SystemExit as end:
            status = 1 if isinstance(end.code, str) else end.code
    ends.append((status, sorted(set({SLOW}) & set(sys.modules))))
print(json.dumps(ends))
"""
    done = subprocess.run([sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(status, loaded) for status, loaded in json.loads(done.stdout)]


def test_help_and_wrong_options_load_nothing_slow():
    commands = [[], *([name] for name in cli.COMMANDS), ["bench", "compare"], ["weights", "convert"]]
    words = [[*command, "--help"] for command in commands] + [[*command, "--no-such-option"] for command in commands]
    words.append(["no-such-command"])
    statuses = [0] * len(commands) + [2] * (len(commands) + 1)
    for command, end, status in zip(words, ends_of(words), statuses, strict=True):
        assert end == (status, []), command


def test_errors_of_values_load_nothing_slow():
    words = [
        ["bench", "--data", "no-such-folder"],
        ["bench", "--data", "l2o-demo", "--steps", "0"],
        ["bench", "compare", "no-such-folder", "other"],
        ["meta-train", "--out", "o", "--data.capture-share", "0"],
        ["meta-train", "--out", "o", "--data.captures", "no-such-folder"],
        ["train-controller", "--out", "o", "--training.population", "3"],
        ["train-initializer", "--out", "o", "--stage", "update"],
        ["train-initializer", "--out", "o", "--through-optimization"],
        ["photos", "no-such-folder"],
        ["prove", "--only", "no-such-part"],
        ["prove", "--garden", "no-such-folder"],
        ["eval", "--load-config", "no-such-folder/config.yml"],
        ["export", "--load-config", "config.yml", "--obb-center", "0", "0", "0"],
    ]
    for command, end in zip(words, ends_of(words), strict=True):
        assert end == (1, []), command


def test_expected_errors_are_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="^l2o: There is no folder .*no-such-folder"):
        cli.main(["photos", str(tmp_path / "no-such-folder")])
    with pytest.raises(SystemExit, match="^l2o: no-such-weights is neither"):
        cli.main(["weights", "show", "no-such-weights"])
    with pytest.raises(SystemExit, match="^l2o bench compare: .*no-such-folder"):
        cli.main(["bench", "compare", str(tmp_path / "no-such-folder"), str(tmp_path)])


def test_other_errors_keep_their_stack_trace(monkeypatch):
    def broken(self):
        raise ValueError("a mistake in the program")

    monkeypatch.setattr(Check, "run", broken)
    with pytest.raises(ValueError, match="a mistake in the program"):
        cli.main(["check"])


def test_every_error_of_the_package_is_expected_and_a_built_in_one():
    names = [
        module.name
        for module in pkgutil.walk_packages(l2o_splat.__path__, "l2o_splat.")
        if module.name != "l2o_splat.rendering.gsplat"
    ]
    errors = {
        value
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__.startswith("l2o_splat.")
    }
    found = {error.__name__: error for error in errors if error is not L2OError}
    assert found.keys() >= INTERNAL and {"WeightsError", "BenchError", "SplatError"} <= found.keys()
    for name in found.keys() - INTERNAL:
        assert issubclass(found[name], L2OError), name
        assert issubclass(found[name], ValueError | RuntimeError | OSError), name
