"""The speed benchmark: every moment counts once, for the part that it belongs to."""

import json

import pytest
import torch

from benchmarks import resplat as benchmark
from l2o_splat.nets.resplat import model as initial_model
from l2o_splat.nets.resplat.config import ReSplatShape
from l2o_splat.optim import resplat
from l2o_splat.weights.resplat import read_tensors
from tests.resplat_networks import NARROW, OPTIONS


@pytest.fixture(scope="module")
def weights():
    return benchmark.random_weights(NARROW, OPTIONS, width=64)


def test_time_belongs_to_the_innermost_part(monkeypatch):
    now = iter([0, 1, 3, 7, 15, 31, 63, 127]).__next__
    monkeypatch.setattr(benchmark.time, "perf_counter", now)
    timer = benchmark.PartTimer(torch.device("cpu"))
    inner = timer.timed("inner", lambda: 5)
    outer = timer.timed("outer", inner)
    timer.start()  # 0
    assert outer() == 5  # 1 to 15, inner from 3 to 7
    inner()  # 31 to 63
    assert timer.stop() == {"rest": 1 + 16 + 64, "outer": 2 + 8, "inner": 4 + 32}


def test_a_function_that_fails_gives_its_time_back(monkeypatch):
    monkeypatch.setattr(benchmark.time, "perf_counter", iter([0, 1, 3, 7]).__next__)
    timer = benchmark.PartTimer(torch.device("cpu"))
    timer.start()
    with pytest.raises(ZeroDivisionError):
        timer.timed("failing", lambda: 1 / 0)()
    assert timer.stop() == {"rest": 1 + 4, "failing": 2}


@pytest.mark.parametrize("local", [False, True])
def test_every_part_is_found(weights, tmp_path, local):
    searches = initial_model.decode_gaussians, resplat.nearest_neighbours, resplat.local_neighbours
    words = ["--views", "3", "--height", "64", "--width", "64", "--device", "cpu", "--repeats", "1"]
    results = benchmark.run(weights, benchmark.parse([*words, *["--local-knn"] * local]))
    assert results["gaussians"] == 3 * 16 * 16 and results["views"] == [3, 64, 64]
    assert results["parameters"] == sum(tensor.numel() for tensor in weights.tensors.values())
    for stage, parts in (("initialization", benchmark.INITIALIZATION), ("update", benchmark.UPDATE)):
        seconds = results[stage]["seconds"]
        assert tuple(seconds) == parts and all(seconds[part] > 0 for part in parts)
        # Of a single repetition: nothing is left out, nothing counts twice.
        assert sum(seconds.values()) == pytest.approx(results[stage]["total"])
        assert results[stage]["peak_mib"] > 4 * results["parameters"] / 2**20
    assert searches == (initial_model.decode_gaussians, resplat.nearest_neighbours, resplat.local_neighbours)
    rows = benchmark.markdown(json.loads(json.dumps(results))).splitlines()
    assert sum(row.startswith("| initialization |") for row in rows) == len(benchmark.INITIALIZATION) + 1
    assert ("local neighbours" in rows[2]) == local


def test_weights_without_an_update_have_no_row_of_one(weights):
    kept = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("encoder.update_")}
    words = ["--views", "2", "--height", "64", "--width", "64", "--device", "cpu", "--repeats", "1"]
    results = benchmark.run(benchmark.Weights(kept, weights.card), benchmark.parse(words))
    assert "update" not in results and "| update |" not in benchmark.markdown(results)


def test_random_weights_have_the_widths_and_options_asked_for(weights):
    read = read_tensors(weights, {})
    assert read.shape == NARROW
    assert {name: getattr(read.config, name) for name in OPTIONS} == OPTIONS


def test_released_layouts_go_by_their_names():
    shape, behaviour = benchmark.released_layout("resplat-base-dl3dv-540x960-view16")
    assert (shape.vit, shape.width) == ("vitb", 512) and behaviour["half_resolution_depth"]
    assert benchmark.released_layout("resplat-small-dl3dv-256x448-view8") == (ReSplatShape(), {})
    assert benchmark.released_layout("resplat-large-dl3dv-256x448-view8")[0].update is None
    for name in ("resplat-depth-small-352x640", "resplat-base-dl3dv", "narrow"):
        with pytest.raises(ValueError, match=f"no released model '{name}'; give random: and one of"):
            benchmark.released_layout(name)
