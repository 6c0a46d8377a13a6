"""Photographs of noise in the place of those of the tiny capture, at any size, number and kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.plugin.captures import edit_transforms


def write_noise(
    capture: Path, sizes: Sequence[tuple[int, int]] = ((192, 144),), masks: bool = False, alpha: bool = False
) -> None:
    """Give each frame noise of one of the sizes in turn; a band is masked or transparent where asked for."""
    random = np.random.default_rng(0)

    def edit(meta):
        for number, frame in enumerate(meta["frames"]):
            width, height = sizes[number % len(sizes)]
            image = Image.fromarray(random.integers(256, size=(height, width, 3), dtype=np.uint8))
            band = Image.new("L", (width, height), 255)
            band.paste(0, (40, 0, 61, height))
            if alpha:
                image.putalpha(band)
            image.save(capture / frame["file_path"])
            frame.update(w=width, h=height, cx=width / 2 + 0.5, cy=height / 2, fl_x=200.0, fl_y=201.0)
            if masks:
                frame["mask_path"] = f"mask-{number}.png"
                band.save(capture / frame["mask_path"])
        for name in ("w", "h", "cx", "cy", "fl_x", "fl_y"):
            meta.pop(name)

    edit_transforms(capture, edit)
