"""``view.html``: one file with a scene and a viewer in it, for any browser, without a network."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.files import write_text_whole
from l2o_splat.gaussians import Gaussians
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering import render
from l2o_splat.sharing.formats import encoded
from l2o_splat.sharing.upright import up_direction, upright_frame
from l2o_splat.views import PinholeCameras

_SUBJECT_IMAGE = 48
"""Pixels along the longer side of the image from which the distance of the subject is taken."""


def write_view_page(
    path: str | Path,
    gaussians: Gaussians,
    cameras: PinholeCameras,
    *,
    title: str = "Gaussian splat",
    facts: Sequence[str] = (),
    settings: RasterSettings | None = None,
    first_view: int = 0,
) -> None:
    """Write a page that shows a scene right side up, opening at a training camera, to turn around its subject.

    Args:
        path: The file, ``*.html``; it appears whole or not at all.
        gaussians: World frame, spherical harmonics up to degree 3.
        cameras: Training cameras, for the up direction and the first view; world frame, scene units.
        title: Of the page.
        facts: Short texts, shown in one line under the title (PSNR, number of Gaussians, seconds).
        settings: How the scene is drawn, of which background and antialiasing are taken over; None is the default.
        first_view: Camera at which the page opens, without its roll.

    Raises:
        OSError: If the file cannot be written.
        SharingError: If the scene or the cameras do not suit.
    """
    settings = settings or RasterSettings()
    gaussians, cameras = gaussians.detach().to("cpu", torch.float32), cameras.to("cpu", torch.float32)
    up = up_direction(cameras)
    # The viewer turns what it loads by half a turn about z.
    scene = encoded(upright_frame(up, "y-down").to_local(gaussians), ".sog")
    camera = cameras[[first_view]]
    seen = torch.stack([camera.centres[0], subject(gaussians, camera)]).double()
    position, target = upright_frame(up, "y").points_to_local(seen).tolist()
    opening = {
        "position": position,
        "target": target,
        "focal": float(camera.focal_lengths[0]),
        "width": camera.width,
        "height": camera.height,
        "background": settings.background,
        "antialiased": settings.rasterize_mode == "antialiased",
    }
    room = files("l2o_splat.sharing")
    texts = {
        "licence": room.joinpath("viewer/LICENSE").read_text(),
        "title": html.escape(title),
        "viewer-style": room.joinpath("viewer/supersplat-viewer.css").read_text(),
        "background": "rgb({:.0f} {:.0f} {:.0f})".format(*(255 * part for part in settings.background)),
        "heading": html.escape(title),
        "facts": html.escape(" · ".join(facts)),
        "opening": json.dumps(opening),
        "scene": base64.b64encode(scene).decode(),
        "program": base64.b64encode(room.joinpath("viewer/supersplat-viewer.js.gz").read_bytes()).decode(),
    }
    parts = []
    page = room.joinpath("page.html").read_text().replace("{{blur}}", f"{settings.eps2d:.6f}")
    # In the order of their places, so that no text is searched for a place.
    for name, text in texts.items():
        before, _, after = page.partition("{{" + name + "}}")
        parts.append(before + text)
        page = after
    write_text_whole(Path(path), "".join([*parts, page]))


def subject(gaussians: Gaussians, camera: PinholeCameras) -> Float[Tensor, " 3"]:
    """The point in the middle of the image of one camera, as far away as the median of what is drawn around it.

    World frame, scene units; as far away as the world's origin if nothing is drawn there.
    """
    scale = _SUBJECT_IMAGE / max(camera.width, camera.height)
    width, height = (max(round(scale * side), 4) for side in (camera.width, camera.height))
    Ks = camera.Ks * torch.tensor([width / camera.width, height / camera.height, 1.0])[:, None]
    small = PinholeCameras(camera.viewmats, Ks, width, height)
    drawn = render(gaussians, small, RasterSettings(depth=True))
    middle = (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4))
    depth = drawn.depth[0][middle][drawn.alpha[0][middle] > 0.5]
    distance = depth.median() if len(depth) else camera.centres[0].norm()
    return camera.centres[0] + distance * camera.viewmats[0, 2, :3]
