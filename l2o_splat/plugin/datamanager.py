"""The data manager: V posed photographs per step, chosen by seed and step alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.frame import Frame
from l2o_splat.plugin.capture_checks import check_cameras, check_data_path, check_training_split
from l2o_splat.plugin.capture_format import check_format
from l2o_splat.plugin.dataset import CheckedDataset
from l2o_splat.plugin.large_coordinates import OFFSET, check_rounding
from l2o_splat.plugin.option_checks import check_data_options, check_image_sizes
from l2o_splat.plugin.parsers import checked_parser, is_checked
from l2o_splat.plugin.photograph_loading import announce_streaming, expected_bytes, load_photographs
from l2o_splat.plugin.photograph_memory import PhotographMemory, check_cache_gib
from l2o_splat.plugin.photograph_store import PhotographStore
from l2o_splat.plugin.photographs import HeldOutViews, Pinholes, ScaledPhotographs, on_background, stored_photographs
from l2o_splat.plugin.rendered_datasets import (
    ComparedDataset,
    NoPixelSampler,
    PathDataset,
    ShownDataset,
    rendering_runs,
)
from l2o_splat.plugin.saved_capture import (
    SavedCapture,
    describe_change,
    frame_between,
    frame_of_saved,
    photograph_names,
    poses_to_local,
    transform_to_local,
)
from l2o_splat.plugin.seed_points import usable_points, warn_of_narrow_base
from l2o_splat.reduction import reduced_cameras, reduced_size, usable_scale
from l2o_splat.view_sampling import ViewSampler, ViewStrategy
from l2o_splat.views import PinholeCameras, StoredPhotographs, Views


@dataclass
class L2ODataManagerConfig(FullImageDatamanagerConfig):
    """Which views a step sees. The rest is nerfstudio's."""

    _target: type = field(default_factory=lambda: L2ODataManager)
    views_per_step: int = 8
    """Training views rendered in each step; a capture with fewer shows all of them."""
    view_strategy: ViewStrategy = "fps"
    """How they are chosen: farthest point sampling over camera centres, random, sequential or neighbours."""
    view_seed: int = 0
    """Another seed gives another order of views."""
    cache_images_type: Literal["uint8", "float32"] = "uint8"
    """How photographs lie in memory; uint8 needs a quarter. Undistorted ones are rounded to it."""
    cache_gib: float | None = None
    """Host memory for photographs, GiB. None takes half of what is available and at most 5; what does not fit lies in a
    scratch file on disk (TMPDIR names its folder)."""
    # Drawing views is ours; nerfstudio's own options for it would have no effect.
    train_cameras_sampling_strategy: tyro.conf.Suppress[Literal["random", "fps"]] = "random"
    train_cameras_sampling_seed: tyro.conf.Suppress[int] = 42
    fps_reset_every: tyro.conf.Suppress[int] = 100
    # No fields, which tyro takes for options: beside a type that it does not know it cannot name a mistyped option.
    saved_capture: ClassVar[SavedCapture | None] = None
    """Capture of the checkpoint that was loaded last, so that data managers that nerfstudio makes later (`ns-render
    dataset`) show the cameras in its frame."""
    saved_background: ClassVar[tuple[float, float, float]] = (0.0, 0.0, 0.0)
    """Colour behind its scene, which they put under photographs with an alpha channel."""


class UnreadDataset:
    """Photographs of a capture that is not read before someone asks for them: `ns-export` never does.

    nerfstudio's pipeline asks for box, metadata and length alone, and ours needs none of them.
    """

    def __init__(self, read: Callable[[], CheckedDataset]) -> None:
        self._read = read
        self.scene_box, self.metadata = SceneBox(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])), {}

    def __len__(self) -> int:
        return 0

    @cached_property
    def photographs(self) -> CheckedDataset:
        return self._read()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.photographs, name)


class L2ODataManager(FullImageDatamanager[CheckedDataset]):
    """Photographs in memory, and on disk as far as they do not fit, handed out as :class:`Views`.

    Raises:
        CaptureError: when the capture cannot be trained on; see :mod:`l2o_splat.plugin.capture_checks`.
    """

    config: L2ODataManagerConfig
    train_pixel_sampler = NoPixelSampler()
    refine_poses: Callable[[Float[Tensor, "v 3 4"]], Float[Tensor, "v 3 4"]] | None = None
    """Camera-to-world matrices of all training views as a run has refined them, which the views held out follow as one
    similarity can; None if these stay as they were posed."""
    refine_cameras: Callable[[PinholeCameras, list[int]], PinholeCameras] | None = None
    """Cameras of some training views as they are refined, through which gradients flow into the poses; None if poses
    stay as they are."""

    def __init__(self, config: L2ODataManagerConfig, device="cpu", test_mode="val", **kwargs) -> None:
        if test_mode == "inference":
            self._start_unread(config, device)
            return
        data = config.data or config.dataparser.data
        check_data_path(data, trained=config.saved_capture is not None)
        check_data_options(config)
        check_cache_gib(config.cache_gib)
        check_format(config.dataparser, data)
        with checked_parser(config.dataparser):
            super().__init__(config, device=device, test_mode=test_mode, **kwargs)
        if config.saved_capture is not None:
            self.follow(config.saved_capture)
            if rendering_runs():
                to_floats = partial(on_background, torch.tensor(config.saved_background))
                for split in ("train", "eval"):
                    dataset = getattr(self, f"{split}_dataset")
                    read = partial(getattr, self, f"cached_{split}")
                    setattr(self, f"{split}_dataset", ComparedDataset(dataset, read, to_floats))
                return
        if test_mode == "val":
            # Read now: a broken image must not stop a run that has begun.
            _ = self.cached_train, self.cached_eval

    def _start_unread(self, config: L2ODataManagerConfig, device) -> None:
        """Everything comes from the checkpoint; the capture may have been moved or deleted."""
        self.config, self.dataparser_config = config, config.dataparser
        self.device, self.test_mode, self.test_split = device, "inference", "test"
        self.train_dataset, self.eval_dataset = (
            UnreadDataset(lambda name=name: getattr(config.setup(device=device, test_mode="test"), name))
            for name in ("train_dataset", "eval_dataset")
        )
        super(FullImageDatamanager, self).__init__()

    def offer_paths(self) -> None:
        """Let `ns-render interpolate` find cameras that make a video; evaluation sees the photographs' own."""
        if self.test_mode != "inference" and rendering_runs():
            training, held_out = self.train_dataset, self.eval_dataset
            self.train_dataset, self.eval_dataset = PathDataset(training, training), PathDataset(held_out, training)

    def capture(self) -> SavedCapture:
        """The capture in the frame that it is in now, for a checkpoint."""
        outputs, data = self.train_dataparser_outputs, self.config.dataparser.data
        training = photograph_names(self.train_dataset.image_filenames, data)
        poses = dict(zip(training, self.train_dataset.cameras.camera_to_worlds.double().cpu(), strict=True))
        held_out = photograph_names(self.eval_dataset.image_filenames, data)
        for name, pose in zip(held_out, self.eval_dataset.cameras.camera_to_worlds.double().cpu(), strict=True):
            poses.setdefault(name, pose)
        return SavedCapture(
            names=list(poses),
            poses=torch.stack(list(poses.values())),
            training=training,
            centres=outputs.cameras.camera_to_worlds[:, :3, 3].clone(),
            rescaled_by=float(outputs.dataparser_scale),
            transform=outputs.dataparser_transform.double(),
            scale=float(outputs.dataparser_scale),
            offset=outputs.metadata.get(OFFSET, []),
        )

    def follow(self, saved: SavedCapture) -> None:
        """Bring cameras and points into the frame of a checkpoint, if the capture has changed since then.

        Raises:
            CaptureError: If the checkpoint belongs to another capture, or poses have changed.
        """
        self.config.saved_capture = saved
        if self.test_mode == "inference":
            return
        present = self.capture()
        frame = frame_of_saved(saved, present)
        if not frame.is_identity:
            self._move_into(frame)
            CONSOLE.log(
                f"The capture has changed since the checkpoint ({describe_change(saved, present)}), which moved the "
                "frame of its dataparser; cameras and points were brought into the frame of the checkpoint, so that "
                "the scene stays as it is."
            )
        seen = set(saved.training) & set(present.names) - set(present.training)
        if seen:
            CONSOLE.log(
                f"[bold yellow]{len(seen)} of the photographs that are held out now ({min(seen)} is one) were trained "
                "on before, so that held-out quality looks better than it is."
            )

    def _move_into(self, frame: Frame) -> None:
        for dataset in (self.train_dataset, self.eval_dataset):
            outputs = dataset._dataparser_outputs
            for cameras in (dataset.cameras, outputs.cameras):
                cameras.camera_to_worlds = poses_to_local(frame, cameras.camera_to_worlds)
            outputs.dataparser_transform, outputs.dataparser_scale = transform_to_local(
                frame, outputs.dataparser_transform, float(outputs.dataparser_scale)
            )
            points = outputs.metadata.get("points3D_xyz")
            if points is not None:
                outputs.metadata["points3D_xyz"] = frame.points_to_local(points.double()).to(points)
        if hasattr(self, "train_cameras"):
            moved = self.train_dataset.cameras.camera_to_worlds
            self.train_cameras.camera_to_worlds = moved.to(self.train_cameras.camera_to_worlds)
        for made_of_cameras in ("view_sampler", "_pinholes"):
            self.__dict__.pop(made_of_cameras, None)

    def create_train_dataset(self) -> CheckedDataset:
        outputs = self.train_dataparser_outputs
        check_training_split(outputs)
        check_image_sizes(outputs, self.config.camera_res_scale_factor)
        if not is_checked(self.config.dataparser):
            check_rounding(outputs, type(self.config.dataparser).__name__.removesuffix("Config"))
        centres = outputs.cameras.camera_to_worlds[:, :3, 3]
        metadata = usable_points(outputs.metadata, centres)
        warn_of_narrow_base(metadata, centres)
        self.train_dataparser_outputs = replace(outputs, metadata=metadata)
        return super().create_train_dataset()

    def create_eval_dataset(self) -> CheckedDataset:
        dataset = super().create_eval_dataset()
        check_cameras(dataset._dataparser_outputs)
        check_image_sizes(dataset._dataparser_outputs, self.config.camera_res_scale_factor)
        dataset.companions, self.train_dataset.companions = (self.train_dataset,), (dataset,)
        if len(dataset) == 0:
            CONSOLE.log("The capture holds no image out for evaluation, so no held-out quality will be reported.")
        return dataset

    def _load_images(self, split: Literal["train", "eval"], cache_images_device: str) -> PhotographStore:
        del cache_images_device  # As the budget says.
        dataset = ShownDataset.within({"train": self.train_dataset, "eval": self.eval_dataset}[split])
        dataset.prepare()
        dataset.cached = load_photographs(dataset, self._memory, self.config.cache_images_type, split)
        self.train_cameras = ShownDataset.within(self.train_dataset).cameras.to(self.device)
        return dataset.cached

    @cached_property
    def _memory(self) -> PhotographMemory:
        """Where photographs are kept, which all of them share."""
        datasets = map(ShownDataset.within, (self.train_dataset, self.eval_dataset))
        total = sum(expected_bytes(dataset, self.config.cache_images_type) for dataset in datasets)
        on_card = self.config.cache_images == "gpu"
        memory = PhotographMemory.of(total, self.device, on_card, self.config.cache_gib)
        announce_streaming(total, memory)
        return memory

    @property
    def fixed_indices_eval_dataloader(self) -> HeldOutViews:
        """Cameras and photographs of the views held out."""
        photographs = self.cached_eval  # Undistorting changes cameras.
        cameras = ShownDataset.within(self.eval_dataset).cameras.to(self.device)
        if self.refine_poses is not None:
            # The scene is where the training views are now.
            posed = self.train_dataset.cameras.camera_to_worlds.double().cpu()
            # Found backwards, from the poses that are better: errors of the others would shrink its scale.
            frame = frame_between(self.refine_poses(posed), posed).inverse
            cameras.camera_to_worlds = poses_to_local(frame, cameras.camera_to_worlds)
        return HeldOutViews(cameras, photographs)

    @cached_property
    def view_sampler(self) -> ViewSampler:
        """Draws the training views of each step."""
        centres = self.train_dataset.cameras.camera_to_worlds[:, :3, 3].numpy().astype(np.float64)
        return ViewSampler(centres, self.config.views_per_step, self.config.view_strategy, self.config.view_seed)

    def next_train(self, step: int) -> tuple[Cameras, dict]:
        """Cameras of the step, and under ``"views"`` their photographs in nerfstudio's form."""
        indices = self.view_sampler.views(step)
        return self.train_cameras[torch.tensor(indices)], {"views": [self.cached_train[i] for i in indices]}

    @cached_property
    def _pinholes(self) -> Pinholes:
        """The training cameras as they are drawn, in the frame that they are in now."""
        _ = self.cached_train  # Undistorting changes cameras.
        return Pinholes.of(self.train_cameras)

    def pinholes(self, indices: list[int]) -> PinholeCameras:
        """Training cameras of one size, from where they are now."""
        cameras = self._pinholes.cameras(indices)
        return cameras if self.refine_cameras is None else self.refine_cameras(cameras, indices)

    def all_pinholes(self) -> list[PinholeCameras]:
        """All training cameras, one entry per image size."""
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, size in enumerate(self._pinholes.sizes):
            by_size[size].append(index)
        return [self.pinholes(indices) for indices in by_size.values()]

    def refined(self, cameras: PinholeCameras) -> PinholeCameras:
        """Cameras with the poses of training views as the capture has them, from where they are now."""
        if self.refine_cameras is None:
            return cameras
        offsets = (cameras.viewmats[:, None] - self._pinholes.viewmats.to(cameras.viewmats)).flatten(2).norm(dim=2)
        return self.refine_cameras(cameras, offsets.argmin(dim=1).tolist())

    @cached_property
    def _scaled(self) -> ScaledPhotographs:
        return ScaledPhotographs(self.cached_train)

    @property
    def mean_pixels(self) -> float:
        """Pixels of a training photograph, their mean."""
        cameras = self.train_dataset.cameras
        return float((cameras.width * cameras.height).double().mean())

    def usable_scale(self, scale: float) -> float:
        """The scale that a step uses when this one is asked for: the same for all photographs.

        Raises:
            ValueError: If the scale is not above 0 and at most 1.
        """
        return max(usable_scale(scale, *size) for size in set(self._pinholes.sizes))

    def next_train_photographs(self, step: int, background: Tensor, scale: float = 1.0) -> list[StoredPhotographs]:
        """The photographs of a step, one entry per image size; each is converted when it is asked for.

        Args:
            step: Training step.
            background: ``[3]``, put under photographs with an alpha channel, sRGB 0 to 1.
            scale: Factor of the sides, see :mod:`l2o_splat.reduction`; raised to :meth:`usable_scale`. Reduced
                photographs are kept until a step asks for another scale.
        """
        scale = self.usable_scale(scale)
        self._scaled.keep(scale)
        photographs = self.photographs_by_size(self.view_sampler.views(step), background, scale)
        self._scaled.read_ahead(self.view_sampler.views(step + 1))
        return photographs

    def all_train_photographs(self, background: Tensor) -> list[StoredPhotographs]:
        """All training photographs, see :meth:`next_train_photographs`."""
        return self.photographs_by_size(range(len(self.train_dataset)), background)

    def photographs_by_size(
        self, indices: Iterable[int], background: Tensor, scale: float = 1.0
    ) -> list[StoredPhotographs]:
        """Training photographs, one entry per image size; see :meth:`next_train_photographs`."""
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index in indices:
            by_size[self._pinholes.sizes[index]].append(index)
        return [self.train_photographs(group, background, scale) for group in by_size.values()]

    def next_train_views(self, step: int, background: Tensor) -> list[Views]:
        """The same as views that lie in memory together, see :meth:`next_train_photographs`."""
        return [photographs.views() for photographs in self.next_train_photographs(step, background)]

    def train_photographs(self, indices: list[int], background: Tensor, scale: float = 1.0) -> StoredPhotographs:
        """Training photographs of one size, see :meth:`next_train_photographs`."""
        cameras, scale = self.pinholes(indices), self.usable_scale(scale)
        cameras = reduced_cameras(cameras, *reduced_size(scale, cameras.width, cameras.height))
        stored = stored_photographs(cameras.to(background.device), self._scaled.photographs(indices, scale), background)
        return replace(stored, indices=tuple(indices))

    def train_views(self, indices: list[int], background: Tensor) -> Views:
        """Training views of one size, see :meth:`next_train_photographs`."""
        return self.train_photographs(indices, background).views()
