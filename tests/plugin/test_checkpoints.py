"""A checkpoint is whole or not there, whatever happens while it is written."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from l2o_splat.plugin.trainer import CheckpointError
from tests.plugin.captures import last_checkpoint, method_config, train

RUN_FOREVER = """
import sys
from pathlib import Path
from tests.plugin.captures import method_config, train
config = method_config(Path(sys.argv[1]), Path(sys.argv[2]), steps=100000)
config.steps_per_save = 1
train(config)
"""


def test_a_killed_run_leaves_a_checkpoint_that_loads_and_resumes(tiny_capture, tmp_path):
    killed = method_config(tiny_capture, tmp_path / "out")
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", RUN_FOREVER, str(tiny_capture), str(tmp_path / "out")],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(killed.get_checkpoint_dir().glob("*.ckpt")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # Saving in every step, the run is most likely inside a save at any moment.
        time.sleep(1.234)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    saved = torch.load(last_checkpoint(killed), weights_only=True)
    resumed = method_config(tiny_capture, tmp_path / "resumed", steps=1)
    resumed.load_dir = killed.get_checkpoint_dir()
    assert train(resumed).step == saved["step"] + 1


@contextmanager
def full_disk():
    """Files can grow no further than a few bytes, as on a full disk.

    Around the writes under test alone: the test runner's own output may be a long file too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_keeps_the_last_good_checkpoint(tiny_capture, tmp_path, capsys):
    config = method_config(tiny_capture, tmp_path / "out", steps=3)
    trainer = train(config)
    good = last_checkpoint(config).read_bytes()
    trainer.training_state = "training"
    with full_disk():
        trainer.save_checkpoint(7)
    assert "The checkpoint of step 7 could not be saved" in " ".join(capsys.readouterr().out.split())
    trainer.training_state = "completed"
    with full_disk(), pytest.raises(CheckpointError, match=r"last good one is step-000000002\.ckpt: free some space"):
        trainer.save_checkpoint(8)
    assert [path.name for path in config.get_checkpoint_dir().iterdir()] == ["step-000000002.ckpt"]
    assert last_checkpoint(config).read_bytes() == good
    assert not (config.get_base_dir() / ".checkpoint-being-written").exists()


@pytest.mark.parametrize(("only_latest", "expected"), [(True, [4]), (False, [0, 2, 4])])
def test_older_checkpoints_go_only_when_asked(tiny_capture, tmp_path, only_latest, expected):
    config = method_config(tiny_capture, tmp_path / "out", steps=5)
    config.steps_per_save = 2
    config.save_only_latest_checkpoint = only_latest
    train(config)
    steps = sorted(int(path.stem.split("-")[1]) for path in config.get_checkpoint_dir().iterdir())
    assert steps == expected
