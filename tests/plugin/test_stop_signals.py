"""Ctrl-C and SIGTERM end a run after a whole step, and it goes on from there bit for bit."""

import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import torch
from nerfstudio.scripts.train import launch, train_loop

from l2o_splat.gaussians import FIELDS
from l2o_splat.optim.rule import RuleState
from l2o_splat.plugin.stop_signals import SIGNALS, StopRequest, default_signals, stop_signals
from l2o_splat.plugin.trainer import L2OTrainer
from tests.plugin.captures import last_checkpoint, method_config, train
from tests.plugin.console import printed

STEPS, METHOD = 8, "l2o-adam-tuned"

PIPES = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)


def test_a_stopped_run_saves_its_last_step_and_goes_on_bit_for_bit(tiny_capture, tmp_path, monkeypatch, capfd):
    stopped, steps = method_config(tiny_capture, tmp_path / "out", METHOD, steps=STEPS), []
    stopped.get_base_dir().mkdir(parents=True)
    stopped.save_config()
    take_step = L2OTrainer.train_iteration

    def train_iteration(self, step):
        result = take_step(self, step)
        steps.append(step)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as caught:
        patched.setattr(L2OTrainer, "train_iteration", train_iteration)
        launch(train_loop, 1, 1, config=stopped, device_type="cpu")
    text, errors = capfd.readouterr()
    assert caught.value.code == 130 and steps == [0, 1, 2], text + errors
    assert "Stopping after this step" in errors and "Traceback" not in text + errors
    assert [path.name for path in stopped.get_checkpoint_dir().iterdir()] == ["step-000000002.ckpt"]
    assert torch.load(last_checkpoint(stopped), weights_only=True)["step"] == 2
    text = re.sub(r"\s+|trainer\.py:\d+", "", text)
    assert f"StoppedbySIGINTafterstep2,whichissavedin{stopped.get_checkpoint_dir()};" in text
    assert f"--max-num-iterations{STEPS - 3}takesthe{STEPS - 3}steps" in text

    whole = method_config(tiny_capture, tmp_path / "whole", METHOD, steps=STEPS)
    train(whole)
    rest = method_config(tiny_capture, tmp_path / "rest", METHOD, steps=STEPS - 3)
    rest.load_dir = stopped.get_checkpoint_dir()
    assert train(rest).step == STEPS - 1
    resumed, expected = (torch.load(last_checkpoint(config), weights_only=True) for config in (rest, whole))
    assert resumed["step"] == expected["step"] == STEPS - 1
    for name in FIELDS:
        key = f"_model.gauss_params.{name}"
        assert torch.equal(resumed["pipeline"][key], expected["pipeline"][key]), name
    mine, theirs = (RuleState(**saved["optimizers"]["gaussians"]["state"][0]) for saved in (resumed, expected))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_ends_at_once(first, second):
    code = """
import sys
from l2o_splat.plugin.stop_signals import stop_signals
with stop_signals(lambda: print("asked", flush=True)):
    print("ready", flush=True)
    while True:
        sys.stdin.readline()
"""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], text=True, **PIPES)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[first])
    while "Stopping" not in process.stderr.readline():
        pass
    assert process.stdout.readline() == "asked\n" and process.poll() is None
    process.send_signal(signal.Signals[second])
    assert process.wait(timeout=60) == -signal.Signals[second]
    process.communicate()


@pytest.mark.parametrize("asked_in", [0, STEPS - 1])
def test_a_run_can_be_stopped_in_its_first_and_in_its_last_step(tiny_capture, tmp_path, monkeypatch, capsys, asked_in):
    config = method_config(tiny_capture, tmp_path / "out", steps=STEPS)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    step_optimizers, asked = trainer.optimizers.optimizer_scaler_step_some, []

    def step_some(*args):
        if len(asked) == asked_in:
            os.kill(os.getpid(), signal.SIGTERM)
        asked.append(True)
        step_optimizers(*args)

    monkeypatch.setattr(trainer.optimizers, "optimizer_scaler_step_some", step_some)
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(SystemExit) as caught:
        trainer.train()
    assert caught.value.code == 143
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert len(asked) == trainer.optimizers.optimizers["gaussians"].inner_step == asked_in + 1
    assert torch.load(last_checkpoint(config), weights_only=True)["step"] == asked_in
    assert ("no steps are left" in printed(capsys)) == (asked_in == STEPS - 1)


def test_a_run_that_is_stopped_before_its_first_step_saves_nothing(tiny_capture, tmp_path, capsys):
    config = method_config(tiny_capture, tmp_path / "out", steps=STEPS)
    config.start_paused = True
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(SystemExit) as caught:
        trainer.train()
    assert caught.value.code == 130 and "before the first step; there is nothing to save" in printed(capsys)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_viewer_that_stops_the_loop_saves_the_last_step_that_was_taken(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out", steps=STEPS)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    taken = trainer.train_iteration

    def train_iteration(step):
        result = taken(step)
        if step == 3:
            trainer.shutdown()
        return result

    trainer.train_iteration = train_iteration
    trainer.train()
    assert trainer.step == 3 and last_checkpoint(config).stem == "step-000000003"


def test_ctrl_c_during_setup_is_no_success(tiny_capture, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("l2o_splat.plugin.pipeline.start_scene", interrupted)
    config = method_config(tiny_capture, tmp_path / "out")
    with pytest.raises(SystemExit) as caught:
        config.setup(local_rank=0, world_size=1).setup()
    assert caught.value.code == 130 and "before the first step; nothing was saved" in printed(capsys)


def test_beside_the_viewer_ctrl_c_is_what_it_was():
    seen = []
    with stop_signals(lambda: seen.append("stop")) as request:
        with pytest.raises(KeyboardInterrupt), default_signals():
            signal.raise_signal(signal.SIGINT)
        assert request.number is None and not seen
        signal.raise_signal(signal.SIGINT)
        assert request.number == signal.SIGINT and seen == ["stop"]
        assert all(signal.getsignal(number) == signal.SIG_DFL for number in SIGNALS)


def test_other_threads_leave_the_handlers_alone():
    before, seen = [signal.getsignal(number) for number in SIGNALS], []

    def run():
        with stop_signals(lambda: None) as request, default_signals():
            seen.append((request.number, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_without_a_signal_there_is_no_exit_code():
    assert StopRequest(signal.SIGTERM).exit_code == 143
    with pytest.raises(ValueError, match="No signal"):
        _ = StopRequest().exit_code
