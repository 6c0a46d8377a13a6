"""Rows of the papers beside ours, studies, and what they are run with."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.bench.command import bench
from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.markdown import summary_markdown
from l2o_splat.bench.measures import Results
from l2o_splat.bench.methods import Method, find_method
from l2o_splat.bench.report import report_html
from l2o_splat.bench.results import read_results
from l2o_splat.bench.spec import SweepOptions, plan_runs
from l2o_splat.bench.suites.ablated_weights import without, write_without
from l2o_splat.bench.suites.catalogue import SUITES, suite_of
from l2o_splat.bench.suites.published import CROSSED
from l2o_splat.bench.suites.studies import STUDIES, study_variants
from l2o_splat.bench.suites.suite import Cropped, Window
from l2o_splat.bench.suites.table import ELSEWHERE, HERE, beside_papers
from l2o_splat.bench.suites.work import PaperOptions, find_work, started, study_methods
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.scenes.capture_names import CaptureSource
from l2o_splat.weights import Weights, WeightsCard, load_weights, save_weights
from tests.bench import data_sets
from tests.bench.in_process import bench_in_this_process
from tests.bench.logs import make_run, make_spec
from tests.resplat_networks import OPTIONS, initializer, rule

WEIGHTS = "--optimizers.gaussians.optimizer.weights"


def results_of(tmp_path, **environment) -> Results:
    """Two scenes of a suite and a capture of no suite."""
    psnr = {"mipnerf360/garden": 20.0, "mipnerf360/room": 24.0, "attic": 30.0}
    runs = [
        make_run(tmp_path, make_spec(scene, "adam"), quality={0: 10.0, 2: value + 1, 4: value})
        for scene, value in psnr.items()
    ]
    return Results({"command": "l2o bench"} | environment, runs)


def test_published_rows_stand_beside_the_mean_over_the_scenes_of_a_suite(tmp_path):
    table = beside_papers(results_of(tmp_path))
    rows = [dict(zip(table.columns, [entry.text for entry in row], strict=True)) for row in table.rows]
    ours, *published = rows
    assert (ours["Suite"], ours["Method"], ours["From"]) == ("mipnerf360", "adam", HERE)
    assert (ours["PSNR, best"], ours["PSNR, at end"], ours["steps"]) == ("23.00", "22.00", "4")
    assert ours["LPIPS (AlexNet)"] and not ours["LPIPS (papers)"]
    assert [row["Method"] for row in published] == ["G3R*", "Adam", "Learn2Splat", "Adam, tuned"]
    assert all(row["From"].startswith(f"{ELSEWHERE}: arXiv 2605.15760") for row in published)
    learned, tuned = published[2], published[3]
    assert (learned["PSNR, best"], learned["SSIM"], learned["LPIPS (papers)"]) == ("25.75", "0.715", "0.367")
    assert (learned["steps"], learned["peak GB"], learned["LPIPS (AlexNet)"]) == ("2,013", "3.5", "")
    # What the paper does not give stays empty.
    assert (tuned["PSNR, best"], tuned["PSNR, at end"], tuned["SSIM"], tuned["steps"]) == ("24.42", "", "", "")
    for fact in ("2 scenes (paper: 9)", "every 8th view a target", "sides / 4", "4 steps", "not comparable"):
        assert fact in table.explanation


def test_the_table_is_in_report_and_summary_and_says_what_differs(tmp_path):
    results = results_of(tmp_path, scale=0.5)
    assert "sides scaled by 0.5 beyond that, unlike the paper" in beside_papers(results).explanation
    page, text = report_html(results, {}), summary_markdown(results)
    for written in (page, text):
        assert "Beside the papers" in written and "25.75" in written
    # A choice of one scene leaves rows of the papers in sight.
    assert 'data-scene="mipnerf360"' not in page and 'data-scene="mipnerf360/garden"' in page


def test_failed_runs_of_a_suite_have_no_number(tmp_path):
    runs = [
        make_run(tmp_path, make_spec("llff/fern", "adam")),
        make_run(tmp_path, make_spec("llff/trex", "adam"), status="failed", reason="no"),
    ]
    row = beside_papers(Results({}, runs)).rows[0]
    assert [entry.text for entry in row[3:5]] == ["failed 1/2", ""]


def test_captures_of_no_suite_have_no_such_table(tmp_path):
    assert beside_papers(Results({}, [make_run(tmp_path)])) is None
    assert suite_of("garden") is None and suite_of("mipnerf360/garden") is SUITES["mipnerf360"]
    assert suite_of("unknown/garden") is None


def test_every_suite_of_a_study_exists_and_every_row_has_a_source():
    for name, study in STUDIES.items():
        assert set(study.suites) <= SUITES.keys(), name
        assert set(study.published) <= SUITES.keys(), name
        labels = [variant.label for variant in study.variants]
        assert len(set(labels)) == len(labels), name
    rows = [row for suite in SUITES.values() for row in suite.published]
    rows += [row for study in STUDIES.values() for rows in study.published.values() for row in rows]
    assert all("arXiv 26" in row.source or "arXiv 25" in row.source for row in rows)
    assert all(row.psnr is not None or row.best_psnr is not None for row in rows)
    assert set(CROSSED) == set(STUDIES["crossed-checkpoints"].suites)


def test_a_study_takes_weights_by_name_and_says_which_are_missing(tmp_path):
    said = []
    methods = study_methods("crossed-checkpoints", {"dense": "/w/dense"}, tmp_path, said.append)
    expected = Method("dense weights", "learn2splat", ("--preset", "paper", WEIGHTS, "/w/dense"))
    assert methods == (expected,)
    (sentence,) = said
    assert "sparse weights, unified weights" in sentence and "--study-weights sparse=" in sentence
    with pytest.raises(BenchError, match="Nothing of this study.*--study-weights dl3dv=.*--study-weights re10k="):
        study_methods("cross-dataset", {}, tmp_path, said.append)
    with pytest.raises(BenchError, match="--study-weights thick=x: the study has no such weights; it takes sparse"):
        study_variants(STUDIES["crossed-checkpoints"], {"thick": "x"})
    with pytest.raises(BenchError, match="it takes learn2splat"):
        study_variants(STUDIES["sgd"], {"thick": "x"})


def test_a_study_runs_on_the_data_sets_that_are_there(tmp_path):
    folder, said = data_sets.write_llff(tmp_path / "llff"), []
    options = PaperOptions(datasets=(f"llff={folder}",), study="sgd")
    (work,) = find_work(options, [find_method("l2o-sgd")], False, said.append)
    assert work.suite.name == "llff" and list(work.readers) == ["fern", "trex"]
    assert "mipnerf360, dtu, dl3dv, dl3dv-8v; give --dataset mipnerf360=FOLDER" in said[0]
    with pytest.raises(BenchError, match="runs on data sets of the papers; name some: --dataset mipnerf360=FOLDER"):
        find_work(PaperOptions(study="sgd"), [], False, said.append)
    assert find_work(PaperOptions(study="sgd"), [], True, said.append) == []


def test_sparse_chunks_start_from_a_network_unless_the_user_says_otherwise():
    start, sparse = "--pipeline.initialization", SUITES["dl3dv-32v"]
    network = (f"{start}.context.num-views", "32", f"{start}.context.views-at-once", "8")
    network += (f"{start}.context.longer-side", "448")
    adam, random = find_method("l2o-adam"), find_method(f"l2o-adam {start}.source random")
    assert started(sparse, adam, has_points=True).options == (f"{start}.source", "resplat", *network)
    assert started(sparse, find_method("resplat"), has_points=False).options == network
    typed = find_method(f"l2o-adam {start}.source=resplat")
    assert started(sparse, typed, has_points=False).options == (*network, *typed.options)
    # Default weights need points; dense views start from them.
    for suite, method, has_points in (
        (sparse, adam, False),
        (sparse, random, True),
        (SUITES["dl3dv"], adam, True),
        (SUITES["mipnerf360"], adam, False),
        (sparse, find_method("splatfacto"), True),
    ):
        assert started(suite, method, has_points) == method


def test_a_method_may_have_steps_of_its_own():
    capture = CaptureSource("dl3dv-8v/a", ("nerfstudio-data",), "/a", views="own")
    methods = [find_method("one=resplat --max-num-iterations 1"), find_method("l2o-adam --max-num-iterations=30")]
    options = SweepOptions(2000, None, "wall", "all", 1.0, 1, ())
    specs = plan_runs(
        [capture],
        [*methods, find_method("l2o-adam-tuned")],
        dict.fromkeys(("one", "l2o-adam --max-num-iterations=30", "l2o-adam-tuned"), True),
        options,
    )
    assert [(spec.steps, spec.horizon, spec.views) for spec in specs] == [
        (1, 1, "own"),
        (30, 30, "own"),
        (2000, 2000, "own"),
    ]
    with pytest.raises(BenchError, match="--max-num-iterations is none"):
        _ = find_method("l2o-adam --max-num-iterations none").steps


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Path of narrow ReSplat weights."""
    parts = initializer().model.state_dict() | rule().network.state_dict()
    path = tmp_path_factory.mktemp("weights") / "narrow"
    card = WeightsCard("resplat", {}, OPTIONS | {"context_views": 3, "fit": "enlarge"}, {})
    save_weights(path, Weights({f"encoder.{name}": tensor for name, tensor in parts.items()}, card))
    return str(path)


def update_network(weights: Weights):
    return ReSplatRule.from_weights(weights).network


@torch.no_grad()
def test_a_part_that_is_taken_out_has_no_effect_on_the_update(weights):
    trained = load_weights(weights)
    generator = torch.Generator().manual_seed(0)
    network = update_network(trained)
    shape, n = network.shape.update, 32
    inputs = [torch.randn(n, width, generator=generator) for width in (59, shape.state_width, shape.shown_width)]
    neighbours = torch.arange(n)[:, None]
    step = lambda of, error: of(inputs[0], inputs[1], error, neighbours)[0]  # noqa: E731
    blind = update_network(without("error", trained))
    assert not torch.allclose(step(network, inputs[2]), step(network, -inputs[2]))
    assert torch.equal(step(blind, inputs[2]), step(blind, -inputs[2]))
    torch.testing.assert_close(step(blind, inputs[2]), step(network, torch.zeros_like(inputs[2])))

    images = [torch.rand(2, 3, 64, 64, generator=generator) for _ in range(2)]
    changed = [image.clone() for image in images]
    changed[0][1] += 0.3  # Only the second view is drawn otherwise.
    local = update_network(without("global-attention", trained))
    cells = len(local.image_error(*images)) // 2
    assert torch.equal(local.image_error(*images)[:cells], local.image_error(*changed)[:cells])
    assert not torch.equal(network.image_error(*images)[:cells], network.image_error(*changed)[:cells])

    assert ReSplatRule.from_weights(without("knn", trained)).config.update_neighbours == 1


def test_weights_without_a_part_are_written_once_and_the_trained_ones_stay(weights, tmp_path):
    path = write_without("error", weights, tmp_path)
    assert write_without("error", weights, tmp_path) == path
    assert "without error" in load_weights(str(path)).card.source
    methods = study_methods("ablations", {"full": weights, "no-knn": "/w/no-knn"}, tmp_path, lambda text: None)
    used = {method.label: method.options[method.options.index(WEIGHTS) + 1] for method in methods}
    assert used == {
        "full": weights,
        "without kNN": "/w/no-knn",
        "without global attention": str(tmp_path / "study-weights" / path.name.replace("error", "global-attention")),
        "without error": str(path),
    }


def test_a_suite_is_run_and_reported_by_the_command(tmp_path, capsys, monkeypatch):
    bench_in_this_process(monkeypatch)
    # Wide enough for the columns of LPIPS, where its networks are on this machine.
    monkeypatch.setenv("COLUMNS", "240")
    folder = data_sets.write_mipnerf360(tmp_path / "360_v2", ("garden",), width=192, height=144)
    options = {"suite": ("mipnerf360",), "dataset": (f"mipnerf360={folder}",), "images": False}
    status = bench(methods=("l2o-adam --preset plain", "l2o-sgd"), steps=2, out=tmp_path / "out", **options)
    output = capsys.readouterr().out
    assert status == 0, output
    assert "measured here" in output and "25.75" in output and "2 steps" in output
    (run, sgd) = read_results(tmp_path / "out").runs
    assert (run.scene, run.training_views, run.held_out_views, run.last.step) == ("mipnerf360/garden", 14, 3, 2)
    assert run.curve[0].psnr == sgd.curve[0].psnr and run.last.psnr != sgd.last.psnr


def test_a_study_on_chunks_is_run_with_its_own_views_and_updates(tmp_path, capsys, monkeypatch, weights):
    bench_in_this_process(monkeypatch)
    small = replace(SUITES["dl3dv-8v"], size=Cropped(64, 64), split=Window(20, 3, 4))
    monkeypatch.setitem(SUITES, "dl3dv-8v", small)
    folder = data_sets.write_chunks(tmp_path / "dl3dv", (8,), width=96, height=80)
    status = bench(
        study="ablations",
        study_weights=(f"full={weights}",),
        dataset=(f"dl3dv={folder}",),
        out=tmp_path / "out",
        images=False,
    )
    output = capsys.readouterr().out
    assert status == 0, output
    assert "Left out for want of weights that were trained that way: without state" in output
    runs = read_results(tmp_path / "out").runs
    assert [(run.method, run.last.step, run.training_views, run.held_out_views) for run in runs] == [
        (label, 4, 3, 4) for label in ("full", "without kNN", "without global attention", "without error")
    ]
    assert len({run.last.psnr for run in runs}) == 4
    assert len({run.curve[0].psnr for run in runs}) == 1
    assert "ReSplat: update without kNN" in (tmp_path / "out/summary.md").read_text()


def test_a_command_without_anything_to_run_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="At least one capture .--data. or suite"):
        bench(out=tmp_path)
    with pytest.raises(SystemExit, match="--scenes concerns suites and studies"):
        bench(("l2o-demo:1",), scenes=("garden",), out=tmp_path)
