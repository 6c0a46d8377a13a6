"""The sweep on a local Ray instance with two workers; skipped where the extra ``cluster`` is not installed."""

import io

import pytest
from rich.console import Console

from l2o_splat.bench.sweep import RUNS_NAME, read_run, run_sweep
from tests.bench.logs import make_spec
from tests.bench.test_sweep import FAKE_RUN

ray = pytest.importorskip("ray", reason="needs the extra cluster: pip install 'l2o_splat[cluster]'")


def start_ray(tries: int = 4) -> None:
    """A local instance with two workers. On busy cores Ray's own processes time out while they wait for each other."""
    for left in reversed(range(tries)):
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            return
        except Exception:  # Ray raises no narrower one here.
            ray.shutdown()
            if not left:
                raise


def test_a_killed_workers_runs_are_retried_and_nothing_is_counted_twice(tmp_path, monkeypatch):
    attempts = tmp_path / "attempts"
    monkeypatch.setenv("ATTEMPTS", str(attempts))
    specs = [make_spec(method=method, seed=seed) for method in ("good", "bad-worker", "crash") for seed in range(2)]
    out = tmp_path / "out"
    console = Console(file=io.StringIO(), width=200)
    start_ray()
    try:
        run_sweep(specs, out, False, console, address="auto", cores=1, command=FAKE_RUN)
    finally:
        ray.shutdown()
    runs = [read_run(spec, out) for spec in specs]
    assert [run.status for run in runs] == ["ok"] * 4 + ["failed"] * 2
    assert runs[4].reason == "The process ended with status 1: Something the method could not do."
    for run in runs[:4]:
        assert [point.step for point in run.curve] == [0, 1, 2, 3, 4]
        assert run.steps == 4
    assert len(list((out / RUNS_NAME).iterdir())) == len(specs)
    tries = attempts.read_text()
    assert tries.count("bad-worker 0") == tries.count("bad-worker 1") == 2
    assert tries.count("good 0") == tries.count("good 1") == 1
    assert "6/6" in console.file.getvalue()
