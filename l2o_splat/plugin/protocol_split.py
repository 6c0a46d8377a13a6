"""The protocol's split of views for any dataparser of nerfstudio, in ``l2o bench`` and for captures to train on."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.parsers import CHECKED
from l2o_splat.plugin.photographs import Pinholes
from l2o_splat.plugin.seed_points import with_points
from l2o_splat.scenes.split import SplitError, ViewChoice, split_views
from l2o_splat.sharing.selection import seen_in

VIEWS_OF_A_POINT = 2
"""Context views that a point must lie in, in the sparse protocol: with fewer, structure from motion could not have
found it."""


def use_protocol_split(config: DataParserConfig, views: ViewChoice) -> None:
    """Let the dataparser that this config builds return the split of the protocol instead of its own, unless its own
    is asked for.

    Images are read at full size even if there are smaller copies, so that they are scaled in memory alone.
    """
    if hasattr(config, "downscale_factor"):
        config.downscale_factor = 1
    config._target = partial(_build, CHECKED.get(config._target, config._target), views)


def _build(target: type[DataParser], views: ViewChoice, config: DataParserConfig) -> ProtocolDataParser:
    return ProtocolDataParser(target(config), views)


class ProtocolDataParser:
    """A dataparser with the cameras, points and world frame of another one, and the split of the protocol."""

    def __init__(self, parser: DataParser, views: ViewChoice) -> None:
        self._parser = parser
        self._views = views

    @property
    def includes_time(self) -> bool:
        return self._parser.includes_time

    def get_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """Return the training views for ``train``, the held-out views for any other split.

        In the sparse protocol without the points that fewer than two of the training views can see.

        Raises:
            CaptureError: If the capture has too few views for the split.
        """
        if self._views == "own":
            return self._parser.get_dataparser_outputs("train" if split == "train" else "test", **kwargs)
        centres = self._all_views.cameras.camera_to_worlds[:, :3, 3].numpy().astype(np.float64)
        try:
            training, held_out = split_views(centres, self._views)
        except SplitError as error:
            raise CaptureError(str(error)) from error
        outputs = _take(self._all_views, training if split == "train" else held_out)
        if self._views == "all":
            return outputs
        return replace(outputs, metadata=_points_between(outputs.metadata, self._all_views.cameras, training))

    @cached_property
    def _all_views(self) -> DataparserOutputs:
        """Both splits of the dataparser as one, in the order of file names, no view twice."""
        parts = [self._parser.get_dataparser_outputs(split) for split in ("train", "val")]
        names = [name for part in parts for name in part.image_filenames]
        first = {name: index for index, name in reversed(list(enumerate(names)))}
        return _take(_join(*parts), [first[name] for name in sorted(first)])


def _join(train: DataparserOutputs, val: DataparserOutputs) -> DataparserOutputs:
    masks = None
    if train.mask_filenames is not None and val.mask_filenames is not None:
        masks = [*train.mask_filenames, *val.mask_filenames]
    return replace(
        train,
        image_filenames=[*train.image_filenames, *val.image_filenames],
        mask_filenames=masks,
        cameras=_join_cameras(train.cameras, val.cameras),
        metadata={
            name: [*value, *val.metadata[name]] if _per_view(train, value) else value
            for name, value in train.metadata.items()
        },
    )


def _join_cameras(train: Cameras, val: Cameras) -> Cameras:
    tensors = (
        "camera_to_worlds",
        "fx",
        "fy",
        "cx",
        "cy",
        "width",
        "height",
        "camera_type",
        "distortion_params",
        "times",
    )
    values = {name: (getattr(train, name), getattr(val, name)) for name in tensors}
    return Cameras(
        **{name: None if pair[0] is None else torch.cat(pair) for name, pair in values.items()}, metadata=train.metadata
    )


def _take(outputs: DataparserOutputs, views: list[int]) -> DataparserOutputs:
    return replace(
        outputs,
        image_filenames=[outputs.image_filenames[view] for view in views],
        mask_filenames=outputs.mask_filenames and [outputs.mask_filenames[view] for view in views],
        cameras=outputs.cameras[torch.tensor(views)],
        metadata={
            name: [value[view] for view in views] if _per_view(outputs, value) else value
            for name, value in outputs.metadata.items()
        },
    )


def _points_between(metadata: dict[str, Any], cameras: Cameras, views: list[int]) -> dict[str, Any]:
    """Metadata of a dataparser with the points alone that lie in two or more of these views.

    Whether something hides them is not asked, nor what a lens does to straight lines.
    """
    xyz = metadata.get("points3D_xyz")
    if xyz is None:
        return metadata
    pinholes = Pinholes.of(cameras)
    seen = seen_in(xyz, (pinholes.cameras([view]) for view in views))
    return with_points(metadata, seen >= VIEWS_OF_A_POINT)


def _per_view(outputs: DataparserOutputs, value: Any) -> bool:
    return isinstance(value, list) and len(value) == len(outputs.image_filenames)
