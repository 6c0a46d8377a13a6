"""The quality benchmark: depths, updates and their rivals on captures whose answers are known."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks import resplat_quality as benchmark
from benchmarks.resplat import random_weights
from benchmarks.resplat_quality_tables import Table, markdown
from l2o_splat.initializers.context_views import choose_context
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.meta.evaluation import held_out_psnr
from l2o_splat.meta.options import InnerLoop
from l2o_splat.meta.unroll import roll_out
from l2o_splat.metrics import psnr
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scenes.capture import Capture, Points, write_capture
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.views import PinholeCameras
from tests.resplat_networks import NARROW, OPTIONS, context, initializer, rule

CPU = torch.device("cpu")
LOOP = InnerLoop(RasterSettings("antialiased", 0.1))


@pytest.fixture(scope="module")
def capture():
    sizes = {"num_views": 12, "width": 64, "height": 64, "num_points": 800}
    exact = {"depth_noise": (0.0, 0.0), "outliers": 0.0, "random_world": False}
    return generate(3, ProceduralOptions(**sizes, **exact))


class SteadyClock:
    """Everything takes a quarter of a second."""

    def time(self, work, *arguments):
        return work(*arguments), 0.25


def plane(height=64, width=64):
    """A camera at the origin, depths that grow to the right and downwards, and a point in every 8th row and column."""
    K = torch.tensor([[[50.0, 0, width / 2], [0, 50.0, height / 2], [0, 0, 1]]])
    cameras = PinholeCameras(torch.eye(4)[None], K, width, height)
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    depth = 2 + 0.031 * columns + 0.0513 * rows
    rays = torch.stack([(columns - width / 2) / 50, (rows - height / 2) / 50, torch.ones_like(rows)], dim=2)
    points = (rays * depth[..., None])[4::8, 4::8].flatten(0, 1)
    return cameras, depth[None], points


def test_exact_depths_correlate_fully_in_any_unit():
    cameras, depth, points = plane()
    for found in (depth, 7 * depth, depth**3):
        assert benchmark.rank_correlations(found, cameras, points) == ([pytest.approx(1.0)], [64])
    assert benchmark.rank_correlations(1 / depth, cameras, points)[0] == [pytest.approx(-1.0)]


def test_hidden_points_and_those_out_of_sight_do_not_count():
    cameras, depth, points = plane()
    hidden, beside, behind = 40 * points, points + torch.tensor([1e3, 0, 0]), -points
    crowd = torch.cat([hidden, beside, behind, points])
    assert benchmark.rank_correlations(depth, cameras, crowd) == ([pytest.approx(1.0)], [64])
    nearer = torch.cat([points, 0.5 * points[32:]])  # As they are what the camera sees, the depths are wrong there.
    assert benchmark.rank_correlations(depth, cameras, nearer)[0][0] < 0.9


def test_no_correlation_is_told_of_few_points_or_a_single_depth():
    cameras, depth, points = plane()
    few = points[: benchmark.FEWEST_POINTS - 1]
    assert benchmark.rank_correlations(depth, cameras, few) == ([None], [len(few)])
    assert benchmark.rank_correlations(torch.ones_like(depth), cameras, points) == ([None], [64])
    assert benchmark.rank_correlations(depth, cameras, points[:0]) == ([None], [0])


def test_depths_of_a_ray_cast_capture_agree_with_its_points(capture):
    cameras, points = capture.views.cameras, capture.points.xyz
    exact, counts = benchmark.rank_correlations(capture.depths, cameras, points)
    mirrored, _ = benchmark.rank_correlations(capture.depths.flip(2), cameras, points)
    assert min(counts) >= benchmark.FEWEST_POINTS
    assert min(exact) > 0.9 and sum(exact) / 12 > 0.97 > 0.8 > sum(mirrored) / 12


def test_the_control_leaves_every_view_with_one_depth():
    start, views = initializer(), context(3, 64, 128)
    plain = start(views)
    flat = benchmark.predict_flat(start, views)
    medians = plain.depth.flatten(1).median(dim=1).values
    assert (flat.depth == medians[:, None, None]).all() and (plain.depth != medians[:, None, None]).any()
    for scene, is_flat in ((flat, True), (plain, False)):
        for viewmat, median, means in zip(
            views.cameras.viewmats, medians, scene.gaussians.means.split(16 * 32), strict=True
        ):
            z = (means @ viewmat[:3, :3].T + viewmat[:3, 3])[:, 2]
            assert torch.allclose(z, median.expand_as(z), rtol=1e-4) == is_flat
    # What comes after the depths has seen them as well, and the initializer is as it was.
    assert not torch.allclose(flat.gaussians.features_rest, plain.gaussians.features_rest)
    assert torch.equal(start(views).depth, plain.depth)


def test_parts_and_worlds_are_those_of_the_bench_and_the_plugin(tmp_path):
    made = generate(4, ProceduralOptions(num_views=11, width=96, height=64, num_points=50))
    write_capture(tmp_path / "made", made)
    options = benchmark.Options((), "", longer_side=48)
    name, capture = benchmark.read_capture(str(tmp_path / "made"), options)
    assert name == "made" and capture.views.images.shape == (11, 32, 48, 3)
    assert torch.allclose(capture.views.cameras.viewmats, made.views.cameras.viewmats, atol=1e-4)
    assert torch.allclose(capture.points.xyz, made.points.xyz, atol=1e-4)
    parted = benchmark.part(capture, 4, CPU)
    chosen = choose_context(made.views.cameras.centres, 4)
    assert torch.equal(parted.context.images, capture.views.images[chosen])
    between = [(left + right) // 2 for left, right in pairwise(chosen) if right - left > 1]
    assert torch.equal(parted.target.images, capture.views.images[between])


def test_points_kept_back_are_whole_blocks_of_space(capture):
    parted = benchmark.part(capture, 4, CPU, kept_back=0.4)
    assert len(parted.shown) + len(parted.judges) == len(parted.points) == 800
    assert 0.2 < len(parted.judges) / 800 < 0.6
    nearest = torch.cdist(parted.judges.xyz, parted.shown.xyz).amin(dim=1)
    at_random = torch.cdist(parted.judges.xyz, parted.judges.xyz).fill_diagonal_(torch.inf).amin(dim=1)
    assert nearest.median() > 1.5 * at_random.median()


def test_errors_of_depths_are_relative():
    cameras, depth, points = plane()
    assert benchmark.relative_error(depth, cameras, points) == pytest.approx(0, abs=1e-4)
    assert benchmark.relative_error(1.1 * depth, cameras, points) == pytest.approx(math.log(1.1), rel=1e-3)
    assert benchmark.relative_error(depth, cameras, points[:0]) is None


def test_the_rival_takes_the_steps_that_fit_and_decays_over_them(capture):
    parted = benchmark.part(capture, 4, CPU)
    gaussians = gaussians_from_points(capture.points.xyz, capture.points.rgb)
    views = parted.context, parted.target
    found = benchmark.run_adam(gaussians, *views, 1.1, LOOP, SteadyClock())
    assert (found["steps"], found["seconds"], found["gaussians"]) == (4, 0.25, 800)
    adam = AdamRule(adam_options("own-scale", 4))
    after = roll_out(adam, benchmark.start(adam, gaussians, *views), 4, LOOP)
    assert found["target"] == pytest.approx(held_out_psnr(after, LOOP))
    shown = render(after.gaussians, parted.context.cameras, LOOP.raster).rgb.clamp(0, 1)
    by_hand = [psnr(image, photograph) for image, photograph in zip(shown, parted.context.images, strict=True)]
    assert found["context"] == pytest.approx(sum(by_hand) / 4)
    assert benchmark.run_adam(gaussians, *views, 0.01, LOOP, SteadyClock())["steps"] == 1


def test_updates_start_from_points_where_the_weights_can(capture):
    parted = benchmark.part(capture, 4, CPU)
    arguments = (capture.points, parted.context, parted.target, 2, LOOP, SteadyClock())
    assert benchmark.run_updates_from_points(rule(), *arguments) is None
    found = benchmark.run_updates_from_points(rule(update_starts="any"), *arguments)
    still = AdamRule(adam_options("own-scale", 1))
    gaussians = gaussians_from_points(capture.points.xyz, capture.points.rgb)
    before = benchmark.quality(benchmark.start(still, gaussians, parted.context, parted.target), LOOP)
    assert (found["gaussians"], found["seconds"], found["psnr"][0]) == (800, 0.5, before)
    assert len({step["target"] for step in found["psnr"]}) == 3


def test_a_report_from_folders(capture, tmp_path, monkeypatch, capsys):
    write_capture(tmp_path / "good", capture)
    few = replace(capture.views, cameras=capture.views.cameras[:4], images=capture.views.images[:4])
    write_capture(tmp_path / "short", Capture(few, Points(capture.points.xyz, capture.points.rgb)))
    weights = random_weights(NARROW, OPTIONS | {"update_starts": "any"}, width=64)
    monkeypatch.setattr(benchmark, "load_weights", lambda *_: weights)
    data = (str(tmp_path / "good"), str(tmp_path / "short"))
    out = tmp_path / "out" / "report"
    benchmark.main(benchmark.Options(data, "REF", out, views=4, longer_side=64, updates=2, device="cpu"))
    results = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert list(results["captures"]) == ["good"] and "leaves none to hold out" in results["refused"][data[1]]
    found = results["captures"]["good"]
    assert (found["context_views"], found["gaussians"], found["network_size"]) == (4, 4 * 16 * 16, [64, 64])
    assert len(found["rank_correlation"]) == 4
    assert found["updates"]["initial model"]["psnr"][0] == found["start"]["depth"] != found["start"]["median_depth"]
    budgets = {run["budget"]: run["allowed_seconds"] for run in found["equal_time"]}
    own = {start: run["seconds"] for start, run in found["updates"].items()}
    assert budgets == {
        "time of the updates": own["initial model"],
        "time of initialization and updates": own["initial model"] + found["initialization_seconds"],
        "time of the updates from points": own["points"],
    }
    text = (tmp_path / "out" / "report.md").read_text()
    assert text == markdown(results) and text in capsys.readouterr().out
    assert text.count("### ") == 4 and f"- {data[1]} is left out: " in text


def test_tables_have_means_of_each_kind_and_skip_what_is_unknown():
    rows = {("a", "x"): [1.0, None], ("a", "y"): [10.0, 2.0], ("b", "x"): [2.0, 3.0], ("b", "y"): [30.0, None]}
    lines = Table("Title", ["capture", "kind"], ["first", "second"], [1, 0], rows).markdown()
    assert lines[2:] == [
        "| capture | kind | first | second |",
        "| --- | --- | ---: | ---: |",
        "| a | x | 1.0 |  |",
        "| a | y | 10.0 | 2 |",
        "| b | x | 2.0 | 3 |",
        "| b | y | 30.0 |  |",
        "| mean of 2 | x | 1.5 | 3 |",
        "| mean of 2 | y | 20.0 | 2 |",
        "",
    ]
