"""nerfstudio's dataset, with photographs and masks read through :mod:`l2o_splat.scenes.pixels`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from torch import Tensor

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.scenes.orientation import PosedHeaders, Turning, decide_turning
from l2o_splat.scenes.pixels import PhotographHeader, PixelsError, read_header, read_mask, read_photograph

UNDERLAY = "background"
"""Key of what a capture itself wants under photographs with alpha, ``[3]``, sRGB 0 to 1."""
_NAMED = 3
"""A message names this many files."""


class CheckedDataset(InputDataset):
    """Photographs of any kind as 8-bit RGB or RGBA, masks as booleans; what cannot be used has a sentence of its own.

    Raises:
        CaptureError: From the readers, with the file.
    """

    companions: tuple[CheckedDataset, ...] = ()
    """Datasets of other photographs of the same capture, which help to decide how photographs are turned."""

    cached: Sequence[dict] | None = None
    """All photographs as they are held for training, undistorted; None if they have not been read so far."""

    def __getitem__(self, image_idx: int) -> dict:
        """A photograph in floats, for the viewer, which need not read the file again."""
        if self.cached is None:
            return super().__getitem__(image_idx)
        data = self.cached[image_idx]
        image = data["image"]
        return data | {"image": image.float() / 255 if image.dtype == torch.uint8 else image}

    def prepare(self) -> None:
        """Refuse masks that do not exist, and say once which photographs are turned or hold several pictures."""
        self._check_masks_exist()
        _announce_turning(self.image_filenames, self.turning)
        several = [
            path for path, header in zip(self.image_filenames, self.headers, strict=True) if header.num_pictures > 1
        ]
        if several:
            _warn(f"{_files(several)} hold several pictures (pages or frames); the first of each is the photograph.")

    @cached_property
    def headers(self) -> list[PhotographHeader]:
        """What each file says of its picture."""
        try:
            return [read_header(path) for path in self.image_filenames]
        except PixelsError as error:
            raise CaptureError(str(error)) from error

    @cached_property
    def posed_headers(self) -> PosedHeaders:
        """Headers and cameras."""
        cameras = self._dataparser_outputs.cameras
        widths, heights = cameras.width.flatten().tolist(), cameras.height.flatten().tolist()
        rotations = cameras.camera_to_worlds[:, :3, :3].double().numpy()
        return PosedHeaders(self.headers, list(zip(widths, heights, strict=True)), rotations)

    @cached_property
    def turning(self) -> list[Turning]:
        """Whether each photograph is turned as its EXIF orientation says, and why."""
        if all(header.orientation == 1 for header in self.headers):
            return [Turning.NO_TAG] * len(self)
        return decide_turning(self.posed_headers, [companion.posed_headers for companion in self.companions])

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        path, needed = self.image_filenames[image_idx], self._camera_size(image_idx)
        try:
            pixels = read_photograph(path, upright=self.turning[image_idx].upright)
        except PixelsError as error:
            raise CaptureError(str(error)) from error
        found = (pixels.shape[1], pixels.shape[0])
        if found != needed:
            raise CaptureError(
                f"{path} is {found[0]} x {found[1]} pixels, its camera says {needed[0]} x {needed[1]}; bring both to "
                "the same size (for images scaled in memory use --pipeline.datamanager.camera-res-scale-factor)."
            )
        return self._scaled(pixels, Image.Resampling.BILINEAR)

    def get_mask(self, image_idx: int) -> Tensor:
        """Mask ``[h, w, 1]`` of a photograph, true where a pixel counts."""
        path, needed = self._dataparser_outputs.mask_filenames[image_idx], self._camera_size(image_idx)
        try:
            # A mask with an orientation was saved beside its photograph, so both are turned or neither.
            kept = read_mask(path, upright=self.turning[image_idx].upright)
        except PixelsError as error:
            raise CaptureError(f"The mask of {self.image_filenames[image_idx].name} cannot be used: {error}") from error
        found = (kept.shape[1], kept.shape[0])
        if found != needed:
            raise CaptureError(
                f"The mask {path} is {found[0]} x {found[1]} pixels, its photograph "
                f"{self.image_filenames[image_idx].name} is {needed[0]} x {needed[1]}; bring both to the same size."
            )
        scaled = self._scaled(kept.astype(np.uint8), Image.Resampling.NEAREST)
        return torch.from_numpy(scaled).unsqueeze(-1).bool()

    def get_image_uint8(self, image_idx: int) -> Tensor:
        """RGB or RGBA ``[h, w, c]``; nerfstudio would cut to 8 bits what lies on the colour of the capture."""
        return torch.from_numpy(self.get_numpy_image(image_idx))

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict:
        image = self.get_image_uint8(image_idx) if image_type == "uint8" else self.get_image_float32(image_idx)
        data = {"image_idx": image_idx, "image": image}
        if image.shape[-1] == 4 and self._dataparser_outputs.alpha_color is not None:
            data[UNDERLAY] = self._dataparser_outputs.alpha_color
        if self._dataparser_outputs.mask_filenames is not None:
            data["mask"] = self.get_mask(image_idx)
        if self.mask_color:
            data["image"] = self._painted(data)
        data.update(self.get_metadata(data))
        return data

    def check_kept(self, kept: list[bool]) -> None:
        """Warn of photographs whose mask leaves nothing, and refuse a capture in which all do.

        Args:
            kept: Whether anything is left of each photograph, as it is used.
        """
        paths = self._dataparser_outputs.mask_filenames
        if paths is None or all(kept):
            return
        empty = [path for path, is_kept in zip(paths, kept, strict=True) if not is_kept]
        if len(empty) == len(paths):
            raise CaptureError(
                f"All {len(paths)} masks leave no pixel of their photographs (the first is {paths[0]}); white is kept "
                "and black left out: swap them if they are the wrong way round."
            )
        _warn(
            f"{_files(empty, 'masks')} leave no pixel of their photographs, which then show nothing to train on or to "
            "measure."
        )

    def _camera_size(self, image_idx: int) -> tuple[int, int]:
        cameras = self._dataparser_outputs.cameras
        return int(cameras.width[image_idx]), int(cameras.height[image_idx])

    def _scaled(self, pixels: np.ndarray, resample: Image.Resampling) -> np.ndarray:
        if self.scale_factor == 1.0:
            return pixels
        height, width = pixels.shape[:2]
        size = (int(width * self.scale_factor), int(height * self.scale_factor))
        return np.array(Image.fromarray(pixels).resize(size, resample=resample))

    def _painted(self, data: dict) -> Tensor:
        """The image with nerfstudio's ``mask_color`` where the mask leaves a pixel out."""
        image = data["image"]
        if "mask" not in data:
            raise CaptureError(
                "A mask color is set, but the capture has no masks to apply it to; leave --mask-color of the "
                "dataparser out or give every photograph a mask."
            )
        colour = torch.tensor([*self.mask_color, 1.0][: image.shape[-1]])
        if image.dtype == torch.uint8:
            colour = (255 * colour).round()
        return torch.where(data["mask"], image, colour.to(image.dtype))

    def _check_masks_exist(self) -> None:
        paths = self._dataparser_outputs.mask_filenames
        if paths is None:
            return
        missing = [i for i, path in enumerate(paths) if not path.is_file()]
        if missing:
            raise CaptureError(
                f"{len(missing)} of {len(paths)} masks do not exist, the first is {paths[missing[0]]} of "
                f"{self.image_filenames[missing[0]].name}; put them there or take the masks out of the capture."
            )


_REMARKS = {
    Turning.FITS_TURNED: (
        "are turned as their EXIF orientation says, since only then do they have the size of their cameras."
    ),
    Turning.FITS_STORED: (
        "carry an EXIF orientation but are not turned, since only the stored pixels have the size of their cameras."
    ),
    Turning.POSED_TURNED: (
        "are turned as their EXIF orientation says, since only then do their poses agree with the others."
    ),
    Turning.POSED_STORED: (
        "carry an EXIF orientation but are not turned, since only as stored do their poses agree with the others."
    ),
    Turning.DOUBTFUL: (
        "are turned as their EXIF orientation says, but the capture does not tell whether the poses were made from the "
        "turned or the stored pixels; if the result is poor, take the orientation out of the files "
        "(exiftool -Orientation= FILES) and train again."
    ),
}


def _announce_turning(paths: list[Path], reasons: list[Turning]) -> None:
    found: dict[Turning, list[Path]] = defaultdict(list)
    for path, reason in zip(paths, reasons, strict=True):
        if reason is not Turning.NO_TAG:
            found[reason].append(path)
    for reason, files in found.items():
        _warn(f"{_files(files)} {_REMARKS[reason]}")


def _files(paths: list[Path], what: str = "photographs") -> str:
    names = ", ".join(str(path) for path in paths[:_NAMED])
    return f"{len(paths)} {what} ({names}{', ...' if len(paths) > _NAMED else ''})"


def _warn(message: str) -> None:
    CONSOLE.log(f"[bold yellow]{message}")
