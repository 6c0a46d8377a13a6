"""The pipeline: initializes the scene once, hands views to the model, and binds the joint optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points, random_points
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import L2ODataManager, L2ODataManagerConfig, pinhole_cameras
from l2o_splat.plugin.model import L2OModel, L2OModelConfig
from l2o_splat.rendering.trial import draw_trial_image
from l2o_splat.scene_frame import SceneCameras


@dataclass
class InitializationConfig:
    """Where the Gaussians start."""

    source: Literal["auto", "sfm", "random"] = "auto"
    """Structure-from-motion points, random points, or the former where the capture has any."""
    num_points: int | None = None
    """Gaussians to start with; of more points a random choice is taken. None takes all (20000 random ones)."""
    pad: bool = False
    """Fill up to num_points with invisible Gaussians when the capture has fewer points."""
    seed: int = 0
    """Seed of the random choice."""


NUM_RANDOM_POINTS = 20_000


@dataclass
class L2OPipelineConfig(VanillaPipelineConfig):
    """Data, model and start of a scene."""

    _target: type = field(default_factory=lambda: L2OPipeline)
    datamanager: DataManagerConfig = field(default_factory=L2ODataManagerConfig)
    model: ModelConfig = field(default_factory=L2OModelConfig)
    initialization: InitializationConfig = field(default_factory=InitializationConfig)
    """Where the Gaussians start."""


class L2OPipeline(VanillaPipeline):
    """Stock pipeline whose training step shows several views and whose scene starts from an initializer.

    Only training initializes; evaluation, viewer and export take everything from the checkpoint.
    """

    config: L2OPipelineConfig
    datamanager: L2ODataManager
    model: L2OModel

    def __init__(self, config: L2OPipelineConfig, device, test_mode="val", world_size=1, **kwargs) -> None:
        if world_size > 1:
            raise ValueError(
                f"{world_size} processes were asked for; a joint optimizer moves a scene in one process: use "
                "--machine.num-devices 1."
            )
        super().__init__(config, device, test_mode=test_mode, world_size=world_size, **kwargs)
        if test_mode != "inference":
            # Compile now: nerfstudio's viewer aborts images at any line, also inside a compiler.
            draw_trial_image(self.device)
        if test_mode == "val":
            self.model.set_gaussians(self._initial_gaussians())
            CONSOLE.log(f"The scene starts with {self.model.num_points} Gaussians.")

    def _initial_gaussians(self) -> Gaussians:
        options = self.config.initialization
        metadata = self.datamanager.train_dataparser_outputs.metadata
        has_points = metadata.get("points3D_xyz") is not None and len(metadata["points3D_xyz"]) > 0
        if options.source == "sfm" and not has_points:
            raise CaptureError(
                "The capture holds no structure-from-motion points, and --pipeline.initialization.source is sfm; add "
                "points (`l2o photos` makes them) or start from random ones with source random."
            )
        if has_points and options.source != "random":
            xyz, rgb = metadata["points3D_xyz"], metadata["points3D_rgb"]
            count = options.num_points
        else:
            if options.source == "auto":
                CONSOLE.log(
                    "The capture holds no structure-from-motion points, so the scene starts from random ones, which is "
                    "slower and worse; `l2o photos` makes points."
                )
            count = options.num_points or NUM_RANDOM_POINTS
            cameras = self.datamanager.train_dataset.cameras
            same_size = (cameras.width == cameras.width[0]) & (cameras.height == cameras.height[0])
            xyz, rgb = random_points(pinhole_cameras(cameras[same_size.flatten()]), count, options.seed)
        return gaussians_from_points(
            xyz.to(self.device),
            rgb.to(self.device),
            PointInitOptions(
                num_points=count, pad=options.pad, sh_degree=self.model.config.sh_degree, seed=options.seed
            ),
        )

    def bind(self, optimizer: JointOptimizer) -> None:
        """Tell the rule what is known of the scene, and draw as it was trained with."""
        outputs = self.datamanager.train_dataparser_outputs
        optimizer.bind(SceneCameras(outputs.cameras.camera_to_worlds[:, :3, 3], float(outputs.dataparser_scale)))
        self.model.adopt_raster(optimizer.rule.trained_raster or {})

    def get_train_loss_dict(self, step: int):
        """Loss of the step's views, summed over views."""
        views = self.datamanager.next_train_views(step, self.model.background.to(self.device))
        loss_dict, metrics_dict = self.model.training_loss(views)
        return {}, loss_dict, metrics_dict

    def get_average_eval_image_metrics(self, step=None, output_path=None, get_std: bool = False):
        """Mean quality over the views held out, printed in one line as well."""
        if len(self.datamanager.eval_dataset) == 0:
            return {}
        metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
        quality = f"PSNR {metrics['psnr']:.2f} dB, SSIM {metrics['ssim']:.4f}"
        if "lpips" in metrics:
            quality += f", LPIPS {metrics['lpips']:.4f}"
        when = "" if step is None else f"After {step + 1} steps: "
        views = len(self.datamanager.eval_dataset)
        CONSOLE.log(f"{when}{quality} on {views} held-out views, {self.model.num_points} Gaussians.")
        return metrics

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Those of data manager and model, and a last evaluation."""
        report = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self.get_average_eval_image_metrics)
        return [*super().get_training_callbacks(training_callback_attributes), report]
