"""Kernels are compiled in other processes while the capture is read."""

import importlib
import subprocess
import sys

import numba
import pytest
import torch
from numba.core import event
from torch.nn import Parameter

from l2o_splat import kernel_cache
from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.registry import RuleOptions, rule_entry, weights_of
from l2o_splat.plugin.compilation import TRIALS, compiling, trials_of_rule
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.rendering.rendered_loss import rendered_loss
from l2o_splat.views import Views
from tests.rendering.scenes import random_scene

SOURCE = """
import time
from l2o_splat.kernel import kernel

@kernel
def double(x):
    return 2 * x

def compile_doubling():
    double(3)

def compile_forever():
    time.sleep(600)
"""


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package with one kernel, whose machine code is in an empty folder."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "doubling.py").write_text(SOURCE)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("l2o_splat.plugin.compilation.usable_cores", lambda: 2)
    yield importlib.import_module("room.doubling")
    for name in ("room", "room.doubling"):
        sys.modules.pop(name)


def processes_are_not_started(*arguments, **options):
    raise AssertionError("a process was started")


def test_a_run_finds_the_machine_code_of_the_other_process_and_the_next_run_needs_none(room, monkeypatch):
    with compiling("cpu", [room.compile_doubling]):
        pass
    assert room.double(5) == 10
    assert (sum(room.double.stats.cache_hits.values()), sum(room.double.stats.cache_misses.values())) == (1, 0)
    monkeypatch.setattr(subprocess, "Popen", processes_are_not_started)
    with compiling("cpu", [room.compile_doubling]):
        pass


@pytest.mark.parametrize("reason", ["gpu", "no folder"])
def test_nothing_is_started_where_it_would_not_help(room, monkeypatch, tmp_path, reason):
    monkeypatch.setattr(subprocess, "Popen", processes_are_not_started)
    if reason == "no folder":
        kernel_cache._claim.cache_clear()
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file"))
    with compiling("cuda:0" if reason == "gpu" else "cpu", [room.compile_doubling]):
        pass


def test_with_one_core_this_process_compiles_before_the_run_begins(room, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", processes_are_not_started)
    monkeypatch.setattr("l2o_splat.plugin.compilation.usable_cores", lambda: 1)
    with compiling("cpu", [room.compile_doubling]):
        assert not room.double.signatures
    assert len(room.double.signatures) == 1


def test_no_process_outlives_a_run_that_fails(room, monkeypatch):
    started, start = [], subprocess.Popen

    def recorded(*words, **options):
        started.append(start(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    with pytest.raises(ValueError, match="no capture"), compiling("cpu", [room.compile_forever]):
        raise ValueError("no capture")
    assert [process.returncode for process in started] == [-9]


@pytest.mark.parametrize("name", ["adam-own-scale", "learn2splat"])
def test_after_the_trials_a_step_compiles_nothing(name):
    rule = rule_entry(name).build(RuleOptions(weights_of(name, None), {}))
    for trial in (*TRIALS, *trials_of_rule([card for card in [rule.card] if card is not None], rule.needs)):
        trial()
    gaussians, cameras = random_scene(80, 40, 30)
    parameters = {field: Parameter(value.clone()) for field, value in gaussians.items()}
    optimizer = JointOptimizer(parameters, rule)
    compiled = []

    class Listener(event.Listener):
        def on_start(self, event):
            compiled.append(event.data["dispatcher"].py_func.__name__)

        def on_end(self, event):
            pass

    with event.install_listener("numba:compile", Listener()):
        photographs = Views(cameras, torch.rand(2, 30, 40, 3))
        rendered_loss(Gaussians(**parameters), photographs, RasterSettings()).loss.backward()
        optimizer.step()
        with torch.no_grad():
            render(optimizer.gaussians, cameras, RasterSettings(depth=True))
    assert compiled == []
    assert not torch.equal(parameters["means"], gaussians.means)
