"""Threads, processes and the cpu backend."""

import multiprocessing
import threading
import time

import pytest
import torch

from l2o_splat import threads
from l2o_splat.rendering import RasterSettings, get_num_threads, linearize, set_num_threads
from tests.rendering.scenes import images_of, random_like, random_scene

SETTINGS = RasterSettings(depth=True, background=(0.2, 0.5, 0.9))


def everything(seed=0, size=(150, 90)):
    """Images, gradients and tangents of a scene of many jobs."""
    gaussians, cameras = random_scene(5000, *size, seed=seed)
    linearization = linearize(gaussians, cameras, SETTINGS, "cpu")
    gradients = linearization.vjp(random_like(linearization.rendering))
    return [*images_of(linearization.rendering), gradients.pack(), *images_of(linearization.jvp(gaussians))]


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_results_do_not_depend_on_the_number_of_threads():
    set_num_threads(1)
    expected = everything()
    for count in (2, 3, 8):
        set_num_threads(count)
        for _ in range(3):
            assert same(everything(), expected)


def test_number_of_threads_follows_torch():
    set_num_threads(None)
    for count in (1, 3):
        torch.set_num_threads(count)
        assert get_num_threads() == count
    with pytest.raises(ValueError, match="0 threads were asked for; at least 1 is needed"):
        set_num_threads(0)


def test_renderings_at_the_same_time():
    """A viewer beside a trainer: four Python threads share the pool."""
    expected = [everything(seed) for seed in range(4)]
    wrong = []

    def work(seed):
        wrong.extend(seed for _ in range(4) if not same(everything(seed), expected[seed]))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not any(worker.is_alive() for worker in workers)
    assert not wrong


def threads_used():
    """How many threads take part in a handful of slow jobs."""

    def job(_):
        time.sleep(0.02)
        return threading.get_ident()

    return len(set(threads.run(job, 20)))


def render_in_child(queue):
    queue.put([tensor.numpy().tobytes() for tensor in everything()])
    queue.put(threads_used())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_after_fork():
    """A data loader's worker renders with threads of its own after its parent has used the pool."""
    expected = [tensor.numpy().tobytes() for tensor in everything()]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=render_in_child, args=(queue,))
    child.start()
    try:
        assert queue.get(timeout=120) == expected
        assert queue.get(timeout=120) == 2
    finally:
        child.join(timeout=20)
        child.kill()


def test_jobs_are_shared_and_in_order():
    set_num_threads(2)
    assert threads_used() == 2
    assert threads.run(lambda index: index * index, 20) == [index * index for index in range(20)]
    assert threads.run(lambda index: index, 0) == []


def test_jobs_inside_jobs_use_threads_that_are_free():
    set_num_threads(2)

    def outer(_):
        return threads_used()

    assert threads.run(outer, 1) == [2]
    # Both threads are busy with the outer jobs until one of them has nothing else to do.
    assert sum(threads.run(outer, 2)) <= 3
    assert threads_used() == 2
    with pytest.raises(KeyError):
        threads.run(lambda _: threads.run({}.__getitem__, 2), 2)
    assert threads_used() == 2


@pytest.mark.parametrize("failing", range(3))
def test_errors_come_back(failing):
    def job(index):
        time.sleep(0.01)
        if index == failing:
            raise KeyError("broken job")

    with pytest.raises(KeyError, match="broken job"):
        threads.run(job, 3)
    assert threads.run(abs, 3) == [0, 1, 2]
