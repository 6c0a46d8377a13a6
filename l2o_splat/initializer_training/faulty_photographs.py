"""One photograph of several with a fault: another exposure, a camera that shook, a person who walked by.

Where few photographs see a place, each of them is believed. A head that has seen such faults can learn what to hold.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from l2o_splat.initializer_training.options import FaultOptions
from l2o_splat.views import Views

SHAKES = 9
"""Places of the camera that a shaken photograph is the mean of."""
BODY_WIDTH, HEAD_SIZE = 0.3, 0.16
"""Width of a person's body and diameter of the head, as shares of the person's height."""
SOFT_EDGE = 0.75
"""Width of the edge of a person, pixels."""


def with_exposure(views: Views, which: int, gain: float, offset: float = 0.0) -> Views:
    """The views with one photograph brighter or darker (sRGB times ``gain`` plus ``offset``), clipped to 0..1."""
    return _with_image(views, which, (views.images[which] * gain + offset).clamp(0, 1))


def with_shake(views: Views, which: int, length: float, angle: float) -> Views:
    """The views with one photograph that is smeared along a line, as by a camera that turned while it was exposed.

    Args:
        views: Any.
        which: The photograph.
        length: Of the line, pixels.
        angle: Its direction, radians from the x axis towards y.
    """
    image = views.images[which].movedim(2, 0)[None]
    height, width = image.shape[2:]
    ys, xs = torch.meshgrid(*(torch.arange(size, dtype=image.dtype) for size in (height, width)), indexing="ij")
    smeared = torch.zeros_like(image)
    for share in torch.linspace(-0.5, 0.5, SHAKES).tolist():
        x, y = xs + share * length * math.cos(angle), ys + share * length * math.sin(angle)
        # Pixel centres are at half numbers of a grid from -1 to 1 over the whole image.
        places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)[None].to(image)
        smeared += F.grid_sample(image, places, padding_mode="border", align_corners=False) / SHAKES
    return _with_image(views, which, smeared[0].movedim(0, 2))


def with_passer_by(
    views: Views, which: int, height: float, place: float, clothes: Float[Tensor, " 3"], skin: Float[Tensor, " 3"]
) -> Views:
    """The views with a person in one photograph, who stands on its lower edge and hides what is behind.

    Args:
        views: Any.
        which: The photograph.
        height: Of the person, as a share of the height of the photograph.
        place: Middle of the person, as a share of the width of the photograph.
        clothes: Colour of the body, sRGB.
        skin: Colour of the head, sRGB.
    """
    image = views.images[which]
    rows, columns = image.shape[:2]
    tall, middle = height * rows, place * columns
    ys, xs = torch.meshgrid(*(torch.arange(size) + 0.5 for size in (rows, columns)), indexing="ij")
    size = HEAD_SIZE * tall
    body_tall = tall - size
    body = _ellipse(xs - middle, ys - (rows - body_tall / 2), BODY_WIDTH * tall / 2, body_tall / 2)
    # Below its middle the body is as wide as there: a coat.
    coat = _edge(BODY_WIDTH * tall / 2 - (xs - middle).abs()) * (ys > rows - body_tall / 2)
    head = _ellipse(xs - middle, ys - (rows - tall + size / 2), size / 2, size / 2)
    for mask, colour in ((torch.maximum(body, coat), clothes), (head, skin)):
        image = torch.lerp(image, colour.to(image), mask.to(image)[..., None])
    return _with_image(views, which, image)


def with_fault(views: Views, options: FaultOptions, rng: np.random.Generator) -> Views:
    """The views; each kind of fault befalls one of them with its probability."""

    def befallen(probability: float) -> int | None:
        happens, which = rng.random() < probability, int(rng.integers(len(views)))
        return which if happens else None

    which, gain = befallen(options.exposure_probability), float(rng.uniform(*options.exposure))
    offset = float(rng.uniform(-1, 1)) * options.exposure_offset if options.exposure_offset else 0.0
    if which is not None:
        views = with_exposure(views, which, gain, offset)
    which, length, angle = befallen(options.shake_probability), rng.uniform(*options.shake), rng.uniform(0, math.pi)
    if which is not None:
        views = with_shake(views, which, float(length) * views.cameras.width, float(angle))
    which, height, place = befallen(options.passer_by_probability), rng.uniform(*options.passer_by), rng.random()
    clothes, skin = (torch.from_numpy(rng.random(3)) for _ in range(2))
    if which is not None:
        views = with_passer_by(views, which, float(height), float(place), clothes, skin)
    return views


def _ellipse(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Float[Tensor, "h w"]:
    """1 inside an ellipse around the origin, 0 outside."""
    return _edge((1 - torch.hypot(x / half_width, y / half_height)) * min(half_width, half_height))


def _edge(inside: Tensor) -> Tensor:
    """1 where a distance to an edge, in pixels, is positive, 0 where it is negative, and soft in between."""
    return (inside / SOFT_EDGE + 0.5).clamp(0, 1)


def _with_image(views: Views, which: int, image: Float[Tensor, "h w 3"]) -> Views:
    images = views.images.clone()
    images[which] = image
    return replace(views, images=images)
