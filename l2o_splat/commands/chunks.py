"""``l2o chunks``: from captures to the chunks that networks are trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from l2o_splat.scenes.capture_names import CaptureSource, find_capture
from l2o_splat.scenes.chunks.errors import ChunkError

if TYPE_CHECKING:
    from l2o_splat.scenes.capture import Capture


@dataclass
class Chunks:
    """Write captures as chunks (pixelSplat's format), with an index, points and views to evaluate on.

    `l2o meta-train` trains on them (--data.chunks.folder), and so do pixelSplat, DepthSplat and ReSplat.
    """

    captures: tyro.conf.Positional[tuple[str, ...]]
    """Folders of captures, in any format nerfstudio reads; each becomes a scene named like its folder."""
    out: Path
    """Folder of the data set; the chunks go to OUT/train or OUT/test, which must be new or empty."""
    stage: Literal["train", "test"] = "train"
    """Part of the data set."""
    size: tuple[int, int] | None = None
    """Height and width to which photographs are reduced and cropped, pixels; as they are by default."""
    scenes_per_chunk: int = 16
    """Most scenes in one file."""
    quality: int = 95
    """JPEG quality, 1 to 100."""
    points: bool = True
    """Also write the sparse points of captures that have them, to OUT/STAGE/points."""
    context_views: int = 8
    """Context views of each scene in evaluation_index.json."""
    target_views: int = 6
    """Target views of each scene in evaluation_index.json."""
    dataparser: str | None = None
    """nerfstudio's dataparser with its options, for all captures; found from their files by default."""

    def run(self) -> None:
        """Write the chunks and say how to train on them.

        Raises:
            L2OError: A capture cannot be read, or OUT/STAGE holds something.
        """
        if not self.captures:
            raise ChunkError("No captures are named; give the folder of at least one.")
        sources = [find_capture(text, self.dataparser) for text in self.captures]
        folder = self.out / self.stage
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ChunkError(f"{folder} already holds something; choose another folder or remove it first.")
        from l2o_splat.scenes.chunks.writer import POINTS, ChunkWriter

        writer = ChunkWriter(
            self.size, self.scenes_per_chunk, self.quality, self.points, (self.context_views, self.target_views)
        )
        writer.write(folder, _read(sources))
        print(f"Wrote {len(sources)} {'scene' if len(sources) == 1 else 'scenes'} to {folder}.")
        words = f"--data.chunks.folder {folder}"
        if (folder / POINTS).is_dir():
            words += f" --data.chunks.points {folder / POINTS}"
        print(f"Train on them with: l2o meta-train --out RUN {words}")


def _read(sources: list[CaptureSource]) -> Iterator[tuple[str, Capture]]:
    # Only here: this imports nerfstudio, which takes seconds.
    from l2o_splat.plugin.training_captures import read_training_capture

    for source in sources:
        data = None if source.data is None else Path(source.data)
        capture = read_training_capture(data, source.dataparser, need_points=False)
        cameras = capture.views.cameras
        print(
            f"{source.scene}: {len(capture.views)} frames of {cameras.width} x {cameras.height} pixels, "
            f"{len(capture.points)} points",
            flush=True,
        )
        yield source.scene, capture
