"""``view.html`` shows the scene as our renderer does, from a file, without a network."""

import html
import re

import pytest
import torch

from l2o_splat.metrics import psnr
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.sharing import write_view_page
from tests.browser import Page
from tests.sharing.scenes import askew_scene

SHOWN = "document.body?.dataset.state"
CANVAS_ALONE = "document.querySelectorAll('#about, .sse-viewer > :not(canvas)').forEach((part) => part.remove())"
OUTSIDE = """[...document.querySelectorAll('#about *, .sse-viewer button')].filter((part) => {
  const box = part.getBoundingClientRect();
  return box.width && (box.left < 0 || box.right > innerWidth || box.top < 0 || box.bottom > innerHeight);
}).map((part) => part.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize(
    ("view", "settings"),
    [
        (0, RasterSettings()),
        (2, RasterSettings(rasterize_mode="antialiased", background=(0.9, 0.5, 0.1))),
    ],
)
def test_the_page_shows_what_a_training_camera_sees(page, tmp_path, view, settings):
    gaussians, cameras = askew_scene(n=600, width=256, height=192)
    path = tmp_path / "view.html"
    write_view_page(path, gaussians, cameras, settings=settings, first_view=view)
    page.open(path, cameras.width, cameras.height)
    page.wait_for(SHOWN)
    assert page.evaluate(SHOWN) == "shown", page.logged()
    page.evaluate(CANVAS_ALONE)
    shown = torch.from_numpy(page.screenshot().copy()).float() / 255
    expected = render(gaussians, cameras[[view]], settings).rgb[0].clamp(0, 1)
    assert psnr(shown, expected) > 34
    # Neither a picture of one colour nor another camera passes.
    assert psnr(render(gaussians, cameras[[view - 1]], settings).rgb[0].clamp(0, 1), expected) < 25


@pytest.mark.parametrize(("width", "height", "phone"), [(1280, 800, False), (390, 844, True)])
def test_the_page_fits_a_desk_and_a_phone_and_asks_for_nothing(page, tmp_path, width, height, phone):
    gaussians, cameras = askew_scene(n=50)
    path = tmp_path / "view.html"
    title = "A <b>bold</b> & long name of a capture that someone gave a folder of photographs"
    write_view_page(path, gaussians, cameras, title=title, facts=("PSNR 24.28 dB", "50 Gaussians", "40 s"))
    asked, said = len(page.requests()), len(page.logged())
    page.open(path, width, height, phone)
    page.wait_for(SHOWN)
    assert page.evaluate(SHOWN) == "shown", page.logged()
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("document.querySelector('h1').textContent") == title
    assert page.evaluate("document.querySelector('#about p').textContent") == "PSNR 24.28 dB · 50 Gaussians · 40 s"
    assert {address.partition(":")[0] for address in page.requests()[asked:]} <= {"file", "blob", "data"}
    assert not [line for line in page.logged()[said:] if "rror" in line]


def test_a_drag_turns_the_camera_around_what_stands_in_the_middle(page, tmp_path):
    gaussians, cameras = askew_scene(n=50, degree=0)
    path = tmp_path / "view.html"
    write_view_page(path, gaussians, cameras)
    page.open(path, 400, 300)
    page.wait_for(SHOWN)
    camera = "viewer.app.root.findByName('camera')"
    pose = f"[{camera}.getPosition(), {camera}.forward].flatMap((v) => [v.x, v.y, v.z])"
    before = torch.tensor(page.evaluate(pose))
    page.drag((200, 150), (260, 150))
    page.wait_for(f"Math.hypot(...{pose}.slice(0, 3).map((x, i) => x - {before[:3].tolist()}[i])) > 0.5")
    after = torch.tensor(page.evaluate(pose))
    # Both axes go through one point: that around which the camera turned, at equal distance.
    target = torch.tensor(page.evaluate("JSON.parse(document.getElementById('opening').textContent).target"))
    distance = (target - before[:3]).norm()
    torch.testing.assert_close(before[:3] + distance * before[3:], target, atol=1e-3, rtol=0)
    torch.testing.assert_close(after[:3] + distance * after[3:], target, atol=1e-2, rtol=0)


def test_the_page_carries_the_licence_of_its_viewer(tmp_path):
    gaussians, cameras = askew_scene(n=20, degree=0)
    write_view_page(tmp_path / "view.html", gaussians, cameras, title="</title><script>alert(1)</script>")
    text = (tmp_path / "view.html").read_text()
    assert "MIT License" in text and "PlayCanvas" in text and "{{" not in text
    assert "<script>alert" not in text and html.escape("<script>alert") in text
    assert not re.findall(r'(?:src|href)="(?!#)', text)
