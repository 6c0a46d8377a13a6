"""nerfstudio's parsers of ``transforms.json`` and of COLMAP models, with checks and with float64 where it is needed.

The configs and the names on the command line stay nerfstudio's: the data manager of our methods puts the parsers here
in their place, so that other methods and saved configs do not notice.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import MAX_AUTO_RESOLUTION, ColmapDataParser
from nerfstudio.data.dataparsers.nerfstudio_dataparser import Nerfstudio
from nerfstudio.data.utils import colmap_parsing_utils
from nerfstudio.utils.io import load_from_json
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from torch import Tensor

from l2o_splat.plugin.capture_checks import CaptureError, check_places
from l2o_splat.plugin.capture_format import GuardedParser
from l2o_splat.plugin.errors import OptionError
from l2o_splat.plugin.large_coordinates import announce, large_offset, with_offset
from l2o_splat.plugin.seed_points import read_ply_points
from l2o_splat.plugin.transforms_json import check_transforms


def _centred(meta: dict, places: Path) -> Float[np.ndarray, " 3"] | None:
    """Subtract an offset from the poses of ``meta`` if they are large, and return it.

    Raises:
        CaptureError: If there is one camera, or all are in one place.
    """
    poses = [np.array(frame["transform_matrix"], np.float64) for frame in meta["frames"]]
    centres = np.stack([pose[:3, 3] for pose in poses])
    check_places(centres, str(places))
    offset = large_offset(centres) if np.isfinite(centres).all() else None
    if offset is not None:
        for frame, pose in zip(meta["frames"], poses, strict=True):
            pose[:3, 3] -= offset
            frame["transform_matrix"] = pose
    return offset


def _with_reader(function: Callable, read: Callable[[Path], dict]) -> Callable:
    """nerfstudio's function with another ``load_from_json``; the module stays as it is for everyone else."""
    return FunctionType(
        function.__code__, function.__globals__ | {"load_from_json": read}, function.__name__, function.__defaults__
    )


class CheckedNerfstudio(Nerfstudio):
    """Reads a ``transforms.json``.

    Raises:
        CaptureError: For fields that are missing or of a wrong type, and points that cannot be read.
    """

    _offset: Float[np.ndarray, " 3"] | None = None
    _announced: bool = False

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        seen: dict[str, Any] = {}

        def read(path: Path) -> dict:
            meta = load_from_json(path)
            check_transforms(meta, path)
            self._offset = _centred(meta, path)
            seen.update(meta=meta)
            return meta

        outputs = _with_reader(Nerfstudio._generate_dataparser_outputs, read)(self, split)
        if self._offset is None:
            return outputs
        if not self._announced:
            announce(self._offset)
        self._announced = True
        return with_offset(outputs, self._offset, seen["meta"].get("applied_transform"))

    def _load_3D_points(self, ply_file_path: Path, transform_matrix: Tensor, scale_factor: float):
        if not hasattr(self, "_points"):  # nerfstudio reads them for every split.
            self._points = read_ply_points(ply_file_path)
        if self._points is None:
            return None
        xyz, rgb = self._points
        return {
            "points3D_xyz": _transformed(xyz, self._offset, transform_matrix) * scale_factor,
            "points3D_rgb": torch.from_numpy(rgb),
        }


class CheckedColmap(ColmapDataParser):
    """Reads a COLMAP model.

    Raises:
        CaptureError: For model files that are cut short.
    """

    _offset: Float[np.ndarray, " 3"] | None = None
    _announced: bool = False
    _applied: list[list[float]] | None = None

    def _get_all_images_and_cameras(self, recon_dir: Path) -> dict:
        with _whole(recon_dir, "cameras", "images"):
            meta = super()._get_all_images_and_cameras(recon_dir)
        self._offset, self._applied = _centred(meta, recon_dir), meta.get("applied_transform")
        return meta

    def _setup_downscale_factor(self, image_filenames: list[Path], *others: list[Path]):
        # nerfstudio asks whether to write smaller copies; without a terminal nobody can answer.
        if self._downscale_factor is None and image_filenames and not _has_terminal():
            self._downscale_factor = self._factor_without_asking(image_filenames[0])
        return super()._setup_downscale_factor(image_filenames, *others)

    def _factor_without_asking(self, photograph: Path) -> int:
        """The factor whose smaller copies exist: what was typed, or what nerfstudio would choose, or 1.

        Raises:
            OptionError: If the copies for the factor that was typed do not exist.
        """
        typed, folder = self.config.downscale_factor, self.config.data / self.config.images_path
        if typed is not None:
            if typed > 1 and not folder.with_name(f"{folder.name}_{typed}").is_dir():
                raise OptionError(
                    f"--downscale-factor is {typed}, but {folder.name}_{typed} with smaller copies does not exist in "
                    f"{folder.parent}, and there is no terminal to answer whether to write them: leave it out and use "
                    f"--pipeline.datamanager.camera-res-scale-factor {1 / typed:.3g}."
                )
            return typed
        with Image.open(photograph) as image:
            longest = max(image.size)
        factor = 1
        while longest / factor > MAX_AUTO_RESOLUTION:
            factor *= 2
        if factor == 1 or folder.with_name(f"{folder.name}_{factor}").is_dir():
            return factor
        CONSOLE.log(
            f"The photographs are {longest} pixels long and {folder.name}_{factor} with smaller copies does not exist; "
            "they are used at full size (--pipeline.datamanager.camera-res-scale-factor scales them in memory)."
        )
        return 1

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        outputs = super()._generate_dataparser_outputs(split, **kwargs)
        if self._offset is None:
            return outputs
        if not self._announced:
            announce(self._offset)
        self._announced = True
        return with_offset(outputs, self._offset, self._applied)

    def _load_3D_points(self, colmap_path: Path, transform_matrix: Tensor, scale_factor: float):
        with _whole(colmap_path, "points3D"):
            points = super()._load_3D_points(colmap_path, transform_matrix, scale_factor)
            if self._offset is None:
                return points
            # Again: nerfstudio keeps no points in float64.
            if (colmap_path / "points3D.bin").exists():
                saved = colmap_parsing_utils.read_points3D_binary(colmap_path / "points3D.bin")
            else:
                saved = colmap_parsing_utils.read_points3D_text(colmap_path / "points3D.txt")
        axes = np.eye(3) if self._applied is None else np.array(self._applied)[:, :3]
        xyz = np.array([point.xyz for point in saved.values()], np.float64).reshape(-1, 3)
        offset = np.linalg.solve(axes, self._offset)
        return points | {"points3D_xyz": _transformed(xyz, offset, transform_matrix) * scale_factor}


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _transformed(
    xyz: Float[np.ndarray, "p 3"], offset: Float[np.ndarray, " 3"] | None, transform: Float[Tensor, "3 4"]
) -> Float[Tensor, "p 3"]:
    """Points less the offset, in float32 from there on, as nerfstudio transforms them."""
    points = torch.from_numpy(np.asarray(xyz if offset is None else xyz - offset, dtype=np.float32))
    return torch.cat((points, torch.ones_like(points[..., :1])), -1) @ transform.T


@contextmanager
def _whole(folder: Path, *names: str) -> Iterator[None]:
    """Name the file of a COLMAP model that is cut short, or whose numbers lead beyond its end."""
    try:
        yield
    except DAMAGE as error:
        detail = str(error) or "it lists more than fits in memory"
        raise CaptureError(
            f"{_damaged_file(folder, names)} is cut short or damaged ({detail}); copy the COLMAP model again, or "
            "reconstruct anew."
        ) from error


def _damaged_file(folder: Path, names: tuple[str, ...]) -> Path:
    readers = {"cameras": colmap_parsing_utils.read_cameras_binary}
    for name in names[:-1]:
        try:
            readers[name](folder / f"{name}.bin")
        except DAMAGE:
            return folder / f"{name}.bin"
    return folder / f"{names[-1]}.bin"


DAMAGE = (struct.error, MemoryError, OverflowError, UnicodeDecodeError)
"""What nerfstudio's readers of binary COLMAP files raise for bytes that mean nothing."""

CHECKED: dict[type[DataParser], type[DataParser]] = {Nerfstudio: CheckedNerfstudio, ColmapDataParser: CheckedColmap}
"""Parsers of nerfstudio, and those of ours in their place."""


def is_checked(config: DataParserConfig) -> bool:
    """Whether the parser of a config is one of those here."""
    target = config._target
    return target in CHECKED or (isinstance(target, partial) and target.args[0] in CHECKED.values())


@contextmanager
def checked_parser(config: DataParserConfig) -> Iterator[None]:
    """Let a dataparser's config set up the parser of ours, guarded; afterwards the config is as it was."""
    target = config._target
    config._target = partial(_guarded, CHECKED.get(target, target))
    try:
        yield
    finally:
        config._target = target


def _guarded(target: Callable[[DataParserConfig], DataParser], config: DataParserConfig) -> GuardedParser:
    return GuardedParser(target(config), config)
