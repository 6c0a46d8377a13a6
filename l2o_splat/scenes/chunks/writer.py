"""From captures to a folder of chunks, with its index, points and views to evaluate on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from l2o_splat.scenes.capture import Capture, new_directory, write_points
from l2o_splat.scenes.chunks.camera_rows import check_rows, rows_of_cameras
from l2o_splat.scenes.chunks.encoded_images import encoded_jpeg
from l2o_splat.scenes.chunks.errors import ChunkError, TooFewFramesError
from l2o_splat.scenes.chunks.folder import INDEX
from l2o_splat.scenes.chunks.resolution import Size, fit_cameras, fit_image
from l2o_splat.scenes.chunks.view_index import ViewIndex, write_view_index
from l2o_splat.scenes.chunks.view_samplers import spread_evaluation_views

EVALUATION_INDEX, POINTS = "evaluation_index.json", "points"
"""Names of the file with the views to evaluate on and of the folder of points, beside the chunks."""


@dataclass(frozen=True)
class ChunkWriter:
    """How captures become chunks."""

    size: Size | None = None
    """Height and width to which frames are reduced and cropped, pixels; None keeps the size of the photographs."""
    scenes_per_chunk: int = 16
    """Most scenes in a file."""
    quality: int = 95
    """JPEG quality of the frames, 1 to 100."""
    points: bool = True
    """Also write the points of each scene that has any, to ``points/KEY.ply``."""
    evaluation_views: tuple[int, int] = (8, 6)
    """Context and target views of each scene in ``evaluation_index.json``."""

    def __post_init__(self) -> None:
        if self.scenes_per_chunk < 1 or not 1 <= self.quality <= 100 or min(self.evaluation_views) < 1:
            raise ChunkError(
                f"{self.scenes_per_chunk} scenes in a chunk, JPEG quality {self.quality} and {self.evaluation_views} "
                "context and target views were asked for; at least 1 scene, a quality of 1 to 100 and 1 view of each "
                "kind are needed."
            )

    def write(
        self, directory: Path, captures: Iterable[tuple[str, Capture]], report: Callable[[str], None] = print
    ) -> None:
        """Write chunks, ``index.json``, ``evaluation_index.json`` and points to a new folder.

        The folder appears complete or not at all. A capture is let go before the next one is taken.

        Args:
            directory: The folder, new or empty.
            captures: Scene keys and captures; views become frames in their order.
            report: Receives remarks, one a line.

        Raises:
            ChunkError: The folder holds something, a key comes twice, or photographs are smaller than ``size``.
        """
        index: dict[str, str] = {}
        evaluation: dict[str, ViewIndex | None] = {}
        entries: list[dict[str, Any]] = []
        try:
            with new_directory(directory) as partial:
                for key, capture in captures:
                    if key in index:
                        raise ChunkError(f"Two captures are named {key}; rename the folder of one of them.")
                    index[key] = f"{len(index) // self.scenes_per_chunk:06d}.torch"
                    entries.append(self.entry(key, capture))
                    evaluation[key] = self._evaluation(key, capture, report)
                    if capture.views.masks is not None:
                        report(f"{key}: its masks are left out; chunks hold none.")
                    if self.points and len(capture.points):
                        (partial / POINTS).mkdir(exist_ok=True)
                        write_points(partial / POINTS / f"{key}.ply", capture.points)
                    if len(entries) == self.scenes_per_chunk:
                        torch.save(entries, partial / index[key])
                        entries = []
                if entries:
                    torch.save(entries, partial / index[entries[-1]["key"]])
                (partial / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
                write_view_index(partial / EVALUATION_INDEX, evaluation)
        except FileExistsError as error:
            raise ChunkError(str(error)) from error

    def entry(self, key: str, capture: Capture) -> dict[str, Any]:
        """The scene of a capture as a chunk holds it; timestamps are the numbers of its views.

        Raises:
            ChunkError: The photographs are smaller than ``size``, or a camera could not be read again.
        """
        cameras = capture.views.cameras if self.size is None else fit_cameras(capture.views.cameras, self.size)
        rows = rows_of_cameras(cameras)
        check_rows(rows, f"capture {key}")
        images = []
        for view in capture.views.images:
            pixels = (view * 255).round().clamp(0, 255).to(torch.uint8).numpy()
            if self.size is not None:
                pixels = np.asarray(fit_image(Image.fromarray(pixels), self.size))
            images.append(encoded_jpeg(pixels, self.quality))
        return {"key": key, "url": "", "timestamps": torch.arange(len(rows)), "cameras": rows, "images": images}

    def _evaluation(self, key: str, capture: Capture, report: Callable[[str], None]) -> ViewIndex | None:
        try:
            return spread_evaluation_views(capture.views.cameras.centres.double().numpy(), *self.evaluation_views)
        except TooFewFramesError as error:
            report(f"{key}: no views to evaluate on ({error})")
            return None
