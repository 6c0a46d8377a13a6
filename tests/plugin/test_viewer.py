"""nerfstudio's viewer on a training of ours: where it opens, what it says and shows, also in a real browser."""

import math
import threading
import time
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from nerfstudio.viewer.render_state_machine import RenderStateMachine

from l2o_splat.plugin.shown_values import ShownValues
from l2o_splat.plugin.viewer import LEAST_PIXELS, draw_large_enough, opening_camera, opening_fov
from l2o_splat.plugin.viewer_panel import MOST_POINTS, RunHistory, curve, panel
from l2o_splat.progress import RunProgress
from tests.browser import Page
from tests.plugin.captures import look_at_origin, method_config


def test_the_viewer_opens_at_the_first_camera_and_looks_at_the_scene():
    poses = np.stack([look_at_origin(3 * np.array([math.cos(a), math.sin(a), 0.3]))[:3] for a in (0, 0.5, 1)])
    means = np.random.default_rng(0).normal(size=(500, 3)) * 0.2
    position, looked_at, up = opening_camera(poses, means)
    assert position == pytest.approx(10 * poses[0, :, 3])
    assert np.linalg.norm(looked_at) < 1.0 and up[2] > 0.9
    _, below, _ = opening_camera(poses, means, aim_below=0.5)
    assert np.linalg.norm(below - looked_at) == pytest.approx(0.5 * np.linalg.norm(looked_at - position))
    assert below[2] < looked_at[2], "on a phone the scene would hide behind the panel"
    _, looked_at, _ = opening_camera(poses, np.empty((0, 3)))
    assert np.isfinite(looked_at).all()


@pytest.mark.parametrize(("aspect", "covers_width"), [(2.0, False), (0.5, True)])
def test_the_whole_photograph_is_in_the_window(aspect, covers_width):
    fov = opening_fov(1.0, 0.75, SimpleNamespace(camera=SimpleNamespace(aspect=aspect)))
    height = 2 * math.tan(fov / 2)
    assert height * aspect == pytest.approx(1.0) if covers_width else height == pytest.approx(0.75)


@pytest.mark.parametrize("aspect", [1.78, 0.46])
def test_images_are_large_enough_to_recognise_a_scene(aspect):
    control_panel = SimpleNamespace(max_res=512)
    machine = RenderStateMachine(SimpleNamespace(control_panel=control_panel), 10.0, None)
    machine.target_fps = 1e9  # A slow machine.
    height, width = machine._calculate_image_res(aspect)
    assert height * width < LEAST_PIXELS / 4, "nerfstudio's own floor has risen; ours may go"
    draw_large_enough(machine)
    height, width = machine._calculate_image_res(aspect)
    assert height * width == pytest.approx(LEAST_PIXELS, rel=0.05) and width / height == pytest.approx(aspect, rel=0.05)
    control_panel.max_res = 64
    assert max(machine._calculate_image_res(aspect)) <= 64
    machine.state, control_panel.max_res = "high", 512
    assert max(machine._calculate_image_res(aspect)) == 512


def test_the_panel_says_how_the_run_goes():
    history, progress = RunHistory(), RunProgress("training", rule="adam", last_step=1000)
    for step in range(1, 1001):
        psnr = 20 + step / 100
        progress = RunProgress("training", "", "adam", step, 1000, step / 1000, 12.0, 0.1, 0.05, psnr, 21.0, 4321)
        history.add(progress)
    text = panel(progress, history)
    for part in (
        "| state | training |",
        "100%, 1000 of 1000 steps",
        "12 s",
        "30.00 dB",
        "21.00 dB",
        "0.0500",
        "4,321",
        "adam",
    ):
        assert part in text
    drawing = ElementTree.fromstring(curve(history))
    line = next(element for element in drawing if element.tag.endswith("polyline")).get("points").split()
    assert 50 < len(line) <= MOST_POINTS and line[0] != line[-1]
    assert len([element for element in drawing if element.tag.endswith("circle")]) == 1
    assert "image/svg" not in panel(progress, RunHistory())


def test_what_nobody_looks_at_is_not_computed():
    insight = {"age": torch.ones(3)}
    values = ShownValues(lambda: insight, lambda: {"rgb", "age"})
    known = {"uncertainty": lambda: pytest.fail("computed, though it is not selected")}
    assert values.of(known).keys() == {"uncertainty", "age"} and values.of(known)["age"] is insight["age"]
    insight = {}
    assert values.of({}) == {"uncertainty": None, "age": None}, "the viewer would stop at a name that is gone"


def test_only_a_viewer_gets_what_the_rule_knows(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path, "learn2splat")
    config.optimizers["gaussians"]["optimizer"].weights = "gain-mini"
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train_iteration(0)
    pipeline = trainer.pipeline.eval()
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    plain = pipeline.model.get_outputs_for_camera(camera)
    assert plain.keys() == {"rgb", "depth", "accumulation", "background"}
    pipeline.model.shown_values = ShownValues(pipeline.insight, lambda: {"gain"})
    assert pipeline.model.get_outputs_for_camera(camera).keys() == plain.keys(), "an evaluation draws more"
    seen = {}
    thread = threading.Thread(target=lambda: seen.update(pipeline.model.get_outputs_for_camera(camera)))
    thread.start()
    thread.join()
    assert seen.keys() == plain.keys() | {"age", "gain"} and seen["rgb"].equal(plain["rgb"])
    assert seen["gain"].shape == seen["age"].shape == plain["depth"].shape
    assert 0 < seen["gain"].max() <= 1 and not seen["age"].any(), "what is not selected is drawn"


def says(text: str) -> str:
    """JavaScript that is true once the page says something."""
    return f"Boolean(document.body?.innerText.includes({text!r}))"


def test_a_browser_shows_the_scene_the_run_and_its_end(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path, "l2o-adam-tuned", steps=8)
    config.vis, config.viewer.quit_on_train_completion = "viewer", True
    config.viewer.websocket_host = "127.0.0.1"
    config.get_base_dir().mkdir(parents=True)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    server = trainer.viewer_state.viser_server
    with Page(tmp_path / "browser") as page:
        page.open(f"http://127.0.0.1:{server.get_port()}", 1280, 800)
        page.wait_for(says("making the first scene"))
        trainer.train()
        page.wait_for(says("finished"))
        text = page.evaluate("document.body.innerText")
        assert "8 of 8 steps" in text and f"{trainer.progress.current.psnr_held_out:.2f} dB" in text
        assert "Pause Training" not in text and "Step: 8" in text
        for width in (1280, 390):
            page.open(f"http://127.0.0.1:{server.get_port()}", width, 800)
            page.wait_for(says("finished"))
            end = time.monotonic() + 30
            while page.screenshot()[100:300, 50:340].std() <= 10:
                assert time.monotonic() < end, "the page shows no picture of the scene"
                time.sleep(0.5)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    trainer.shutdown()
