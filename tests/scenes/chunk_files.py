"""Small chunks, written with torch alone, as the scripts of other projects write them."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

WIDTH, HEIGHT = 40, 24


def photograph(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Smooth colours, so that JPEG changes them little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> torch.Tensor:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format=kind, **options)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def camera_rows(frames: int) -> torch.Tensor:
    """Cameras that look along z from places 0, 1, 2, ... on the x axis, each turned a little about y."""
    rows = torch.zeros(frames, 18)
    rows[:, :4] = torch.tensor([0.9, 1.5, 0.5, 0.5])
    for frame, row in enumerate(rows):
        angle = torch.tensor(0.01 * frame)
        rotation = torch.tensor(
            [[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]], dtype=torch.float32
        )
        centre = torch.tensor([float(frame), 0.0, 0.0])
        row[6:] = torch.cat([rotation, -(rotation @ centre)[:, None]], dim=1).flatten()
    return rows


def entry(key: str, frames: int = 5, seed: int = 0) -> dict:
    return {
        "key": key,
        "url": f"https://example.org/{key}",
        "timestamps": torch.arange(frames) * 33_333,
        "cameras": camera_rows(frames),
        "images": [encoded(photograph(seed + frame)) for frame in range(frames)],
    }


def write_folder(folder: Path, *chunks: list[dict]) -> Path:
    """A folder of chunks with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {}
    for number, entries in enumerate(chunks):
        name = f"{number:06d}.torch"
        torch.save(entries, folder / name)
        index |= {item["key"]: name for item in entries}
    (folder / "index.json").write_text(json.dumps(index))
    return folder
