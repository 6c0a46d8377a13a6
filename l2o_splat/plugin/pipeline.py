"""The pipeline: initializes the scene once, hands views to the model, and binds the joint optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import tyro
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.implicit.precision import check_precision
from l2o_splat.initializers.diff3r import predicted_precision, read_diff3r
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points, random_points
from l2o_splat.optim.anchored import AnchoredRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import L2ODataManager, L2ODataManagerConfig, pinhole_cameras
from l2o_splat.plugin.diff3r_start import context_beside_points, precision_without_head
from l2o_splat.plugin.model import L2OModel, L2OModelConfig
from l2o_splat.plugin.optimizer_config import DEFAULT_WEIGHTS
from l2o_splat.plugin.resplat_start import ContextConfig, context_of_update, features_for, start_from_context
from l2o_splat.rendering.trial import draw_trial_image
from l2o_splat.scene import SceneKnowledge
from l2o_splat.views import Views
from l2o_splat.weights import load_weights


@dataclass
class InitializationConfig:
    """Where the Gaussians start."""

    source: Literal["auto", "sfm", "random", "resplat", "diff3r"] = "auto"
    """Structure-from-motion points, random points, or the former where the capture has any (auto). resplat: what
    ReSplat's initial model makes of some photographs. diff3r: the same with a network beside it that says how strongly
    the rule anchored is to hold each Gaussian."""
    num_points: int | None = None
    """Gaussians to start with; of more points a random choice is taken. None takes all (20000 random ones)."""
    pad: bool = False
    """Fill up to num_points with invisible Gaussians when the capture has fewer points."""
    seed: int = 0
    """Seed of the random choice."""
    weights: str | None = None
    """Weights of the source resplat or diff3r, named like those of a rule; None takes those of the rule resplat, or
    those that come with the package, resplat-mini or diff3r-mini."""
    context: ContextConfig = field(default_factory=ContextConfig)
    """Which photographs ReSplat's initial model sees, and the rule anchored refines on."""
    with_update: tyro.conf.Suppress[bool] = False
    """The weights are those of the rule resplat, so they must have an update; set by :meth:`suit`."""
    update_weights: tyro.conf.Suppress[str | None] = None
    """Weights of the rule resplat where it updates points, which say what it needs to be shown; set by :meth:`suit`."""
    anchored: tyro.conf.Suppress[bool] = False
    """The rule is anchored, so it needs context views and a precision; set by :meth:`suit`."""

    def suit(self, rule: str, weights: str | None) -> None:
        """Take over the weights of the rule resplat, and refuse a start that does not suit the rule.

        Raises:
            ValueError: If the rule cannot go on from this start, or options have no effect or are missing.
        """
        self.anchored = rule == "anchored"
        if rule == "resplat" and self.source == "diff3r":
            raise ValueError(
                "The rule resplat updates scenes of its own initial model or of points, and "
                "--pipeline.initialization.source is diff3r; set it to resplat, or choose another rule."
            )
        if self.source not in ("resplat", "diff3r"):
            if self.weights is not None:
                raise ValueError(
                    f"--pipeline.initialization.weights names {self.weights}, and --pipeline.initialization.source is "
                    f"{self.source}, which needs none; set it to resplat, or leave the weights out."
                )
            if rule == "resplat":
                self.update_weights = weights or DEFAULT_WEIGHTS["resplat"]
            return
        if self.weights is None and rule == "resplat":
            self.weights, self.with_update = weights, True
        if self.weights is None:
            self.weights = DEFAULT_WEIGHTS[self.source]
        if self.num_points is not None or self.pad:
            raise ValueError(
                f"--pipeline.initialization.num-points is {self.num_points} and pad {self.pad}, but ReSplat makes a "
                "fixed number of Gaussians per context view; leave both out, and choose the views instead with "
                "--pipeline.initialization.context.num-views."
            )


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
        self._optimizer: JointOptimizer | None = None
        self._context: Views | None = None
        self._features: Tensor | None = None
        self._precision: Tensor | None = None
        if test_mode != "inference":
            # Compile now: nerfstudio's viewer aborts images at any line, also inside a compiler.
            draw_trial_image(self.device)
        if test_mode == "val":
            self.model.set_gaussians(self._initial_gaussians())
            CONSOLE.log(f"The scene starts with {self.model.num_points} Gaussians.")
            if config.initialization.anchored:
                self._hold_scene()
            if config.initialization.update_weights is not None:
                weights = load_weights(config.initialization.update_weights, "resplat")
                background = self.model.background.to(self.device)
                self._context = context_of_update(weights, config.initialization.context, self.datamanager, background)

    def _initial_gaussians(self) -> Gaussians:
        options = self.config.initialization
        if options.source in ("resplat", "diff3r"):
            weights, head = load_weights(options.weights, options.source), None
            if options.source == "diff3r":
                weights, head = read_diff3r(weights)
            background = self.model.background.to(self.device)
            if options.with_update:
                ReSplatRule.from_weights(weights)  # Refuses what it cannot use before the initial model works.
            scene = start_from_context(weights, options.context, self.datamanager, background)
            self._context, self._features = scene.context, scene.features.float()
            self.model.adopt_raster(weights.card.raster or {})
            if head is not None:
                settings = self.model.raster_settings()
                self._precision = predicted_precision(head.to(self.device), scene, settings).detach()
            return scene.gaussians
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

    def _hold_scene(self) -> None:
        """Choose the context views where no network did, and say how strongly each Gaussian is held."""
        gaussians = self.model.gaussians.detach()
        if self._context is None:
            options, background = self.config.initialization.context, self.model.background.to(self.device)
            self._context = context_beside_points(options, self.datamanager, background)
        if self._precision is None:
            self._precision = precision_without_head(gaussians, self._context, self.model.raster_settings())
        check_precision(gaussians, self._precision)
        self.model.hold(self._precision)

    def bind(self, optimizer: JointOptimizer) -> None:
        """Tell the rule what is known of the scene, and draw as it was trained with."""
        outputs = self.datamanager.train_dataparser_outputs
        scene = SceneKnowledge(outputs.cameras.camera_to_worlds[:, :3, 3], float(outputs.dataparser_scale))
        features, self._features = self._features, None
        if isinstance(optimizer.rule, AnchoredRule):
            shown = self._context.cameras
            optimizer.rule = optimizer.rule.calibrated(len(shown), shown.width, shown.height)
            features = self._precision
        elif features is not None:
            features = features_for(optimizer.rule, features)
        optimizer.bind(scene, features)
        self._optimizer = optimizer
        self.model.adopt_raster(optimizer.rule.trained_raster or {})

    def get_train_loss_dict(self, step: int):
        """Loss of the step's views, summed over views; of the context views for a rule that looks at renders."""
        if self._optimizer.feedback_kind == "renders":
            return self._show_context()
        if self.config.initialization.anchored:
            views = [self._context]
        else:
            views = self.datamanager.next_train_views(step, self.model.background.to(self.device))
        loss_dict, metrics_dict = self.model.training_loss([self.model.show(group) for group in views])
        self._optimizer.loss = sum(loss_dict.values()).detach() / sum(len(group) for group in views)
        return {}, loss_dict, metrics_dict

    @torch.no_grad()
    def _show_context(self):
        """Show the rule the context views, without a graph through the renders.

        nerfstudio calls ``backward`` on the loss, and ``step`` on optimizers whose parameters have a gradient. An empty
        sum of the means satisfies both: it adds nothing, its backward pass is one tensor of zeros, and the rule is
        given no gradients.
        """
        shown = self.model.show(self._context)
        loss_dict, metrics_dict = self.model.training_loss([shown])
        self._optimizer.rendered = shown
        self._optimizer.loss = sum(loss_dict.values()) / len(self._context)
        with torch.enable_grad():
            loss_dict = {name: value + self.model.means[:0].sum() for name, value in loss_dict.items()}
        return {}, loss_dict, metrics_dict

    def measure_uncertainty(self) -> None:
        """Bring what the output `uncertainty` needs up to date with the scene, where it changes with it."""
        if self.config.initialization.anchored and self.config.model.uncertainty == "laplace":
            self.model.measure_curvature(self._context)

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
        """Those of data manager and model, and a last evaluation; one before the first step of a scene that is held."""
        report = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self.get_average_eval_image_metrics)
        before = (0,) if self.config.initialization.anchored else ()
        first = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._report_start, iters=before)
        return [*super().get_training_callbacks(training_callback_attributes), first, report]

    def _report_start(self, step: int) -> None:
        """What the initializer is worth by itself."""
        self.get_average_eval_image_metrics(step=step - 1)
