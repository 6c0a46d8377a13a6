"""Photographs in nerfstudio's form as this package's, at the size of the capture or reduced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from l2o_splat import threads
from l2o_splat.devices import sent_like
from l2o_splat.plugin.dataset import UNDERLAY
from l2o_splat.plugin.photograph_store import PhotographStore, ReadAhead, size_in_bytes
from l2o_splat.reduction import reduced_photograph, reduced_size
from l2o_splat.views import PinholeCameras, StoredPhotographs, image_of_stored, opencv_from_opengl


def pinhole_cameras(cameras: Cameras) -> PinholeCameras:
    """nerfstudio cameras of one image size as ours; the images must be undistorted already."""
    return PinholeCameras(
        viewmats=opencv_from_opengl(cameras.camera_to_worlds),
        Ks=cameras.get_intrinsics_matrices().to(cameras.camera_to_worlds),
        width=int(cameras.width[0]),
        height=int(cameras.height[0]),
    )


@dataclass(frozen=True)
class Pinholes:
    """Matrices and image sizes of cameras of any size, made once."""

    viewmats: Float[Tensor, "n 4 4"]
    Ks: Float[Tensor, "n 3 3"]
    sizes: list[tuple[int, int]]
    """Width and height of each image in pixels."""

    @classmethod
    def of(cls, cameras: Cameras) -> Pinholes:
        """Those of nerfstudio's cameras, whose images must be undistorted already."""
        sizes = zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True)
        matrices = pinhole_cameras(cameras)
        return cls(matrices.viewmats, matrices.Ks, list(sizes))

    def cameras(self, indices: list[int]) -> PinholeCameras:
        """Cameras of one size."""
        # One by one: an index of several would have to be sent to a GPU, which waits for what it is doing.
        viewmats, Ks = (torch.stack([matrices[i] for i in indices]) for matrices in (self.viewmats, self.Ks))
        return PinholeCameras(viewmats, Ks, *self.sizes[indices[0]])


class ScaledPhotographs:
    """Photographs at any scale; those reduced to the scale of the steps are made once, as far as memory allows.

    Args:
        full: The photographs in nerfstudio's form, at the size of the capture.
    """

    def __init__(self, full: PhotographStore) -> None:
        self._full = full
        self._go_to(1.0)

    def _go_to(self, scale: float) -> None:
        self._scale, self._budget = scale, self._full.memory.reduced()
        self._kept: dict[int, dict] = {}
        self._ahead = ReadAhead(lambda index: reduced(self._full.read(index), scale))

    def keep(self, scale: float) -> None:
        """Keep what is made at this scale from now on, and let go of what was made at another one."""
        if scale != self._scale:
            self._full.read_ahead([])
            self._ahead.start([])
            self._go_to(scale)

    def read_ahead(self, indices: list[int]) -> None:
        """Begin with photographs that will be asked for next at the scale that is kept, if they are on disk."""
        if self._scale == 1:
            self._full.read_ahead(indices)
        else:
            self._ahead.start([i for i in indices if i not in self._kept and self._full.is_on_disk(i)])

    def photographs(self, indices: list[int], scale: float) -> list[dict]:
        """Photographs in nerfstudio's form."""
        if scale == 1:
            return [self._full[index] for index in indices]
        if scale != self._scale:
            return threads.run(lambda job: reduced(self._full.read(indices[job]), scale), len(indices))
        missing = [index for index in dict.fromkeys(indices) if index not in self._kept]
        made = dict(zip(missing, threads.run(lambda job: self._ahead.get(missing[job]), len(missing)), strict=True))
        self._kept.update({index: data for index, data in made.items() if self._budget.take(size_in_bytes(data))})
        return [made[index] if index in made else self._kept[index] for index in indices]


def reduced(data: dict, scale: float) -> dict:
    """A photograph in nerfstudio's form with its mask, at :func:`l2o_splat.reduction.reduced_size`."""
    height, width = data["image"].shape[:2]
    image, mask = reduced_photograph(data["image"], data.get("mask"), *reduced_size(scale, width, height))
    return data | {"image": image} | ({} if mask is None else {"mask": mask})


def photograph_and_mask(data: dict, background: Tensor) -> tuple[Tensor, Tensor | None]:
    """Image ``[h, w, 3]``, sRGB 0 to 1, on the background where it has alpha, and mask ``[h, w, 1]`` or None."""
    image = image_of_stored(data["image"], _background(data, background))
    return image, data["mask"].to(background.device).float() if "mask" in data else None


def stored_photographs(cameras: PinholeCameras, photographs: list[dict], background: Tensor) -> StoredPhotographs:
    """Photographs of one size in nerfstudio's form, handed out on the device of ``background``."""
    masks = [data["mask"] for data in photographs] if "mask" in photographs[0] else None
    background = _background(photographs[0], background)
    return StoredPhotographs(cameras, [data["image"] for data in photographs], masks, background)


def on_background(background: Tensor, data: dict) -> dict:
    """A photograph in nerfstudio's form as floats, on a background where it has alpha."""
    return data | {"image": photograph_and_mask(data, background.to(data["image"].device))[0]}


def _background(data: dict, background: Tensor) -> Tensor:
    """What is put under a photograph with alpha: a colour that the capture names, else ``background``."""
    return sent_like(data[UNDERLAY], background) if UNDERLAY in data else background


class HeldOutViews(Sequence[tuple[Cameras, dict]]):
    """Cameras and photographs of the views held out, each on the device of the run while it is looked at.

    Args:
        cameras: Undistorted, on that device.
        photographs: In nerfstudio's form.
    """

    def __init__(self, cameras: Cameras, photographs: Sequence[dict]) -> None:
        self._cameras, self._photographs = cameras, photographs

    def __len__(self) -> int:
        return len(self._photographs)

    def __getitem__(self, index: int) -> tuple[Cameras, dict]:
        data = self._photographs[index]
        return self._cameras[index : index + 1], data | {"image": data["image"].to(self._cameras.device)}

    def __iter__(self) -> Iterator[tuple[Cameras, dict]]:
        return (self[index] for index in range(len(self)))
