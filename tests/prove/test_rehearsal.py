"""Every part that a machine without a card can measure, in a tiny size: what it measures, its judge understands."""

import shutil
from pathlib import Path

import pytest
import torch

from l2o_splat.prove.errors import UndecidedError
from l2o_splat.prove.part import Setting
from l2o_splat.prove.parts import part_named
from l2o_splat.prove.parts.backends import TINY, random_scene
from l2o_splat.prove.parts.lead import OURS, spec_for
from l2o_splat.prove.records import judgements_of
from l2o_splat.rendering import RasterSettings, render
from tests.captures import shared_capture

GOLDEN = Path(__file__).parents[1] / "golden" / "data"


def rehearse(name, tmp_path, **options):
    """Numbers, and verdicts of the claims that they say something of."""
    part = part_named(name)
    numbers = part.measure(Setting(tmp_path, "cpu", state="test", **options))
    judgements = judgements_of(part, numbers)
    return numbers, [one.verdict for one in judgements if one.found != "The part says nothing of it."]


@pytest.mark.parametrize(("name", "claims"), [("facts", 1), ("compilation", 1), ("backends", 2), ("weights", 3)])
def test_what_does_not_depend_on_time_is_proven_on_the_cpu(name, claims, tmp_path):
    _, verdicts = rehearse(name, tmp_path)
    assert verdicts == ["proven"] * claims


def test_a_renderer_that_is_a_little_off_is_found(tmp_path, monkeypatch):
    from l2o_splat import rendering

    def off(gaussians, cameras, settings, backend):
        drawn = render(gaussians, cameras, settings, backend)
        return drawn if backend == "reference" else drawn.map(lambda image: 1.01 * image)

    monkeypatch.setattr(rendering, "render", off)
    _, verdicts = rehearse("backends", tmp_path)
    assert verdicts == ["refuted", "refuted"]


def test_random_scenes_are_seen_and_differ():
    scenes = [random_scene(seed, TINY, degree=seed) for seed in range(2)]
    assert not torch.equal(scenes[0][0].means, scenes[1][0].means)
    for gaussians, cameras in scenes:
        assert render(gaussians, cameras, RasterSettings(), "reference").alpha.mean() > 0.1


def test_steps_are_timed_and_their_memory_is_counted(tmp_path):
    numbers, verdicts = rehearse("step-time", tmp_path)
    assert verdicts[1] == "proven" and len(numbers["adam"]["milliseconds"]) == 4
    numbers, verdicts = rehearse("memory", tmp_path)
    assert verdicts == ["proven"] * 2 and all(peak > 10 for peak in numbers["adam"])


def test_golden_fixtures_are_replayed_and_wrong_ones_found(tmp_path):
    shutil.copy(GOLDEN / "learn2splat_tiny.safetensors", tmp_path)
    wrong = torch.load(GOLDEN / "resplat_update_tiny.pt", weights_only=True)
    wrong["final_state"] = wrong["final_state"] + 1e-2
    torch.save(wrong, tmp_path / "resplat_wrong.pt")
    numbers, verdicts = rehearse("golden", tmp_path, golden=tmp_path)
    assert verdicts == ["proven", "refuted"]
    assert numbers["resplat"]["resplat_wrong.pt"]["failed"] == ["final_state"]


def test_a_benchmark_is_run_and_read(tmp_path):
    numbers, verdicts = rehearse("benchmark-resplat", tmp_path)
    assert verdicts[0] in ("proven", "refuted") and numbers["views"] == [2, 32, 64]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_curves_need_splatfacto_and_splatfacto_a_card(tmp_path):
    spec = spec_for(OURS[0], Setting(tmp_path))
    assert set(range(1, 121)) <= set(spec.evaluated_seconds) and max(spec.evaluated_seconds) == 120
    with pytest.raises(UndecidedError, match="learn2splat has no finished curve: not finished yet"):
        rehearse("lead", tmp_path, against="splatfacto")


def test_garden_is_a_run_whose_curve_is_judged(tmp_path):
    numbers, verdicts = rehearse("garden", tmp_path, garden=shared_capture("banana_tiny"))
    assert numbers["status"] == "ok" and [step for step, *_ in numbers["curve"]] == [0, 1, 2]
    assert verdicts[1:] == ["not decided"] * 5
