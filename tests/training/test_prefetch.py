"""Workers change nothing but the time: the same captures, in order, and errors that name their index."""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from l2o_splat.scenes.capture import Capture, Points
from l2o_splat.scenes.procedural import ProceduralCapture, ProceduralOptions, generate
from l2o_splat.training.options import CaptureRanges
from l2o_splat.training.prefetch import SourceError, prefetched
from l2o_splat.training.sources import CapturesSource, MixtureSource, ProceduralSource, Source

SMALL = CaptureRanges(short_side=(32, 36), long_side=(40, 48), num_views=(2, 3), num_points=(20, 40))
NUMBER_REFUSED = 4


@dataclass(frozen=True)
class Labelled(Source):
    """Labels its captures with their index, and with the number of threads and the process that made them."""

    seconds: float = 0.0

    def capture(self, index: int) -> Capture:
        time.sleep(self.seconds)
        if index == NUMBER_REFUSED:
            raise KeyError("no scene here")
        views = generate(0, ProceduralOptions(num_views=2, width=8, height=8, num_points=1)).views
        labels = torch.tensor([[index, torch.get_num_threads(), os.getpid()]], dtype=torch.float64)
        return Capture(views, Points(labels, torch.zeros(1, 3)))


def tensors(capture: Capture) -> list[torch.Tensor]:
    views, points = capture.views, capture.points
    known = [capture.depths] if isinstance(capture, ProceduralCapture) else []
    return [views.images, views.cameras.viewmats, views.cameras.Ks, points.xyz, points.rgb, *known]


def test_two_workers_give_the_same_captures_in_the_same_order():
    real = generate(3, ProceduralOptions(num_views=2, width=40, height=32, num_points=9))
    source = MixtureSource([(2.0, ProceduralSource(0, SMALL)), (1.0, CapturesSource([real]))])
    indices = [5, 0, 1, 2, 9, 3, 7, 0]
    inline = list(prefetched(source, indices))
    torch.manual_seed(0)
    with prefetched(source, iter(indices), num_workers=2) as captures:
        made_ahead = list(captures)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))  # The caller's random numbers are left alone.
    assert len(inline) == len(made_ahead) == len(indices)
    for here, there in zip(inline, made_ahead, strict=True):
        assert type(here) is type(there)
        assert all(torch.equal(a, b) for a, b in zip(tensors(here), tensors(there), strict=True))
        assert not there.views.images.is_shared()


@pytest.fixture
def two_threads_per_process(monkeypatch):
    """What a new process takes unless it is set otherwise."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")


@pytest.mark.usefixtures("two_threads_per_process")
def test_an_error_names_its_index_and_a_worker_has_one_thread():
    with prefetched(Labelled(), itertools.count(), num_workers=1) as captures:
        labels = [next(captures).points.xyz[0].tolist() for _ in range(NUMBER_REFUSED)]
        with pytest.raises(SourceError, match="cannot make capture 4 \\(KeyError: 'no scene here'\\)") as caught:
            next(captures)
        # Where it happened is said as well.
        assert "in capture\n" in str(caught.value.__cause__)
        assert next(captures).points.xyz[0, 0] == NUMBER_REFUSED + 1
    assert [index for index, _, _ in labels] == list(range(NUMBER_REFUSED))
    assert {threads for _, threads, _ in labels} == {1}
    assert os.getpid() not in {process for _, _, process in labels}
    assert list(captures) == []


def test_without_workers_captures_are_made_when_they_are_asked_for():
    captures = prefetched(Labelled(seconds=0.05), itertools.count(NUMBER_REFUSED - 1))
    assert captures.waited_seconds == 0
    assert next(captures).points.xyz[0].tolist()[::2] == [NUMBER_REFUSED - 1, os.getpid()]
    assert captures.waited_seconds >= 0.05
    with pytest.raises(SourceError, match="cannot make capture 4 \\(KeyError: 'no scene here'\\)") as caught:
        next(captures)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match="-1 workers"):
        prefetched(Labelled(), [0], num_workers=-1)


KILLED = """
import itertools, os, signal
from l2o_splat.training.prefetch import prefetched
from tests.training.test_prefetch import LargeCaptures

if __name__ == "__main__":
    captures = prefetched(LargeCaptures(), itertools.count(), num_workers=1)
    print(int(next(captures).points.xyz[0, 2]), flush=True)
    signal.pause()
"""


class LargeCaptures(Labelled):
    """More than a pipe holds, so that a worker waits until somebody takes them."""

    def capture(self, index: int) -> Capture:
        labelled = super().capture(NUMBER_REFUSED + 1)
        padding = torch.zeros(1_000_000, 3, dtype=torch.float64)
        return Capture(labelled.views, Points(torch.cat([labelled.points.xyz, padding]), torch.zeros(1_000_001, 3)))


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    (tmp_path / "parent.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, env=environment)
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)
    time.sleep(0.5)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(300):
        if not running(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent by 30 seconds")


def running(process: int) -> bool:
    """Whether a process is there and has not ended; if no process collects orphans, it stays as a zombie."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
