"""From the files of a capture to stored photographs: decoded, undistorted, put in memory or on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.dataset import CheckedDataset
from l2o_splat.plugin.photograph_memory import LOADERS, OPTION, PhotographMemory, check_scratch, scratch_folder
from l2o_splat.plugin.photograph_store import PhotographStore


def expected_bytes(dataset: CheckedDataset, image_type: str) -> int:
    """Bytes of all photographs of a dataset as its cameras say, without alpha, masks included."""
    of_pixel = {"uint8": 3, "float32": 12}[image_type] + (dataset._dataparser_outputs.mask_filenames is not None)
    return of_pixel * int((dataset.cameras.width.long() * dataset.cameras.height.long()).sum())


def announce_streaming(total: int, memory: PhotographMemory) -> None:
    """Say that photographs go to disk, if they do, after a look at its space.

    Raises:
        CaptureError: If they fit neither in memory nor on disk.
    """
    kept = memory.full_size.limit
    if total <= kept:
        return
    check_scratch(total - kept)
    CONSOLE.log(
        f"The photographs take {total / 1e9:.3g} GB: {kept / 1e9:.3g} GB of them stay in memory ({OPTION} sets how "
        f"much), the others are read from a scratch file in {scratch_folder()} (TMPDIR names another folder) as steps "
        "need them."
    )


def load_photographs(dataset: CheckedDataset, memory: PhotographMemory, image_type: str, split: str) -> PhotographStore:
    """Read the photographs of a dataset, whose cameras become those of the undistorted ones.

    Raises:
        CaptureError: From the readers, with the file; if no mask leaves a pixel; if the disk is full.
    """
    store = PhotographStore(len(dataset), memory)

    def load(index: int) -> bool:
        data = undistorted(dataset, index, image_type)
        store.put(index, data)
        return "mask" not in data or bool(data["mask"].any())

    purpose = {"train": "to train on", "eval": "held out"}[split]
    what = f"Reading {len(dataset)} photographs {purpose}"
    CONSOLE.log(what)
    with ThreadPoolExecutor(LOADERS) as pool:
        images = pool.map(load, range(len(dataset)))
        # Where nothing can be overwritten (a log file), a bar would leave empty lines.
        shown = track(images, what, len(dataset), console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal)
        dataset.check_kept(list(shown))
    return store


def undistorted(dataset: CheckedDataset, index: int, image_type: str) -> dict:
    """A photograph in nerfstudio's form as a pinhole sees it, undistorted by nerfstudio; its camera becomes that."""
    data, cameras = dataset.get_data(index, image_type), dataset.cameras
    camera: Cameras = cameras[index].reshape(())
    found, needed = tuple(data["image"].shape[1::-1]), (int(camera.width), int(camera.height))
    if found != needed:
        raise CaptureError(
            f"{dataset.image_filenames[index]} is scaled to {found[0]} x {found[1]} pixels and its camera to "
            f"{needed[0]} x {needed[1]}; choose another --pipeline.datamanager.camera-res-scale-factor."
        )
    if camera.distortion_params is None or (camera.distortion_params == 0).all():
        return data
    K, image, mask = _undistort_image(
        camera,
        camera.distortion_params.numpy(),
        data,
        data["image"].numpy(),
        camera.get_intrinsics_matrices().numpy(),
    )
    data["image"] = torch.from_numpy(image)
    if mask is not None:
        data["mask"] = mask
    for name, value in (("fx", K[0, 0]), ("fy", K[1, 1]), ("cx", K[0, 2]), ("cy", K[1, 2])):
        getattr(cameras, name)[index] = float(value)
    cameras.height[index], cameras.width[index] = image.shape[:2]
    return data
