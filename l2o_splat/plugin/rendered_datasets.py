"""The photographs of a capture as `ns-render` needs them: cameras for paths, and pixels to compare renders with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.errors import NO_RAYS, PluginError


def rendering_runs() -> bool:
    """Whether this process is `ns-render`."""
    return "nerfstudio.scripts.render" in sys.modules


class NoPixelSampler:
    """Stands where `ns-export pointcloud` and `poisson` set the number of rays per batch."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise PluginError(NO_RAYS)


class ShownDataset:
    """Everything of a dataset except for what a subclass defines."""

    def __init__(self, dataset: InputDataset) -> None:
        self._dataset = dataset

    @staticmethod
    def within(dataset: InputDataset | ShownDataset) -> InputDataset:
        """The dataset itself, without what is shown in its place."""
        return dataset._dataset if isinstance(dataset, ShownDataset) else dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict:
        return self._dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._dataset, name)


class PathDataset(ShownDataset):
    """A dataset whose cameras span the path of `ns-render interpolate`.

    They have the size of the photographs, whatever scale was trained on, and even sides, as video formats need them.
    """

    def __init__(self, dataset: InputDataset, substitute: InputDataset) -> None:
        """Take over a dataset.

        Args:
            dataset: Its cameras, if there are two.
            substitute: Further cameras otherwise, because a path leads from camera to camera.
        """
        super().__init__(dataset)
        self._substitute = substitute

    @property
    def cameras(self) -> Cameras:
        used = [self._dataset._dataparser_outputs.cameras]
        if len(self._dataset) < 2:
            CONSOLE.log(
                f"{len(self._dataset)} photographs are held out, and a path needs 2 or more: it leads along the "
                "training views."
            )
            used.append(self._substitute._dataparser_outputs.cameras)
        return path_cameras(used)


def path_cameras(parts: list[Cameras]) -> Cameras:
    """Pinholes of even size at the places of some cameras; the principal point is in the middle."""
    stacked = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("camera_to_worlds", "fx", "fy", "width", "height")
    }
    width, height = (2 * (stacked.pop(side) // 2) for side in ("width", "height"))
    return Cameras(
        **stacked, cx=width / 2, cy=height / 2, width=width, height=height, camera_type=CameraType.PERSPECTIVE
    )


class ComparedDataset(ShownDataset):
    """A dataset whose photographs and cameras `ns-render dataset` sees undistorted, as they were trained on."""

    def __init__(
        self, dataset: InputDataset, read: Callable[[], list[dict]], to_floats: Callable[[dict], dict]
    ) -> None:
        """Take over a dataset.

        Args:
            dataset: Its cameras are undistorted in place by reading.
            read: Gives the undistorted photographs as they are cached.
            to_floats: Makes one of them what a render is compared with.
        """
        super().__init__(dataset)
        self._read, self._to_floats = cache(read), to_floats

    @property
    def cameras(self) -> Cameras:
        self._read()
        return self._dataset.cameras

    def __getitem__(self, index: int) -> dict:
        return self._to_floats(self._read()[index])

    @property
    def _dataparser_outputs(self):
        if len(self) == 0:
            raise CaptureError(
                "No photograph is held out for evaluation, so there is nothing to render; use --split train, or train "
                "with some held out (`nerfstudio-data --eval-mode interval` at the end of ns-train's command)."
            )
        return self._dataset._dataparser_outputs
