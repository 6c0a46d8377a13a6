"""Options of training on chunks. Like all modules of options, this one loads no torch: `--help` needs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from l2o_splat.scenes.chunks.view_samplers import FrameGap
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import MIN_SIDE


@dataclass(frozen=True)
class ChunkOptions:
    """Scenes in chunks (RealEstate10K, DL3DV), and which of their views are drawn.

    The defaults are those of ReSplat (arXiv 2510.08575) for 8 views of DL3DV, which Learn2Splat (arXiv 2605.15760)
    takes for its sparse setting.
    """

    folder: Path | None = None
    """Folder with index.json and chunks (000000.torch, ...); None trains on no chunks."""
    size: tuple[int, int] = (256, 448)
    """Height and width of the views, pixels; frames are reduced and cropped to it."""
    sampler: Literal["bounded", "whole-scene", "evaluation"] = "bounded"
    """bounded draws a window of the video, whole-scene spreads context views over all of it, evaluation takes the views
    of --data.chunks.view-index."""
    context_views: int = 8
    """Views that an initializer or optimizer sees; 64 in the dense setting of Learn2Splat."""
    target_views: int = 6
    """Views that only the loss sees."""
    gap: tuple[int, int] = (24, 45)
    """Smallest and largest number of frames from the first to the last context view of `bounded`."""
    start_gap: tuple[int, int] = (20, 30)
    """The same for the first scene."""
    warm_up: int = 10_000
    """Scenes over which the gap goes linearly from start_gap to gap; 0 begins with gap."""
    view_index: Path | None = None
    """JSON file with the views of each scene; scenes that it does not name, or names with null, are not used."""
    points: Path | None = None
    """Folder with the sparse points of each scene, in its world frame: KEY.ply, KEY/sparse_pc.ply or KEY/sparse/0 of
    COLMAP; None gives scenes without points."""

    def __post_init__(self) -> None:
        if min(self.size) < MIN_SIDE:
            raise TrainingError(f"--data.chunks.size is {self.size}; at least {MIN_SIDE} pixels a side are needed.")
        if self.context_views < 2 or self.target_views < 1:
            raise TrainingError(
                f"--data.chunks asks for {self.context_views} context and {self.target_views} target views; at least 2 "
                "and 1 are needed."
            )
        if self.sampler == "bounded":
            self._check_gaps()
        if (self.sampler == "evaluation") != (self.view_index is not None):
            raise TrainingError(
                f"--data.chunks.sampler is {self.sampler} and --data.chunks.view-index {self.view_index}; the sampler "
                "`evaluation` needs a view index, and no other takes one."
            )

    @property
    def frame_gap(self) -> FrameGap:
        """The gaps of the sampler ``bounded``, by index of the scene."""
        return FrameGap(self.start_gap, self.gap, self.warm_up)

    def describe(self) -> str:
        """Description for the training record."""
        text = f"chunks {self.folder} at {self.size[0]} x {self.size[1]}, views: {self.sampler}"
        if self.sampler == "evaluation":
            return f"{text} ({self.view_index})"
        text += f", {self.context_views} context and {self.target_views} target"
        if self.sampler == "bounded":
            text += f", gaps {self.start_gap} to {self.gap} over {self.warm_up} scenes"
        return text

    def _check_gaps(self) -> None:
        least = self.context_views + self.target_views - 1
        for name, (low, high) in {"gap": self.gap, "start-gap": self.start_gap}.items():
            if not least <= low <= high:
                raise TrainingError(
                    f"--data.chunks.{name} is {(low, high)}; an ascending range from at least {least} is needed, "
                    f"to hold {self.context_views} context and {self.target_views} target views."
                )
        if self.warm_up < 0:
            raise TrainingError(f"--data.chunks.warm-up is {self.warm_up}; 0 or more scenes are needed.")
