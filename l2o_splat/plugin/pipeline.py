"""The pipeline: initializes the scene once, hands views to the model, and binds the joint optimizer."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from nerfstudio.data.datamanagers.base_datamanager import DataManagerConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.growth.event import event_generator
from l2o_splat.growth.needles import bound_elongation
from l2o_splat.optim.exposure import ExposureCompensation
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.scene_growth import adapt_scene, grow_scene, thin_scene
from l2o_splat.plugin.capture_checks import check_data_path
from l2o_splat.plugin.checkpoints import scene_of
from l2o_splat.plugin.compilation import TRIALS, compiling, trials_of_start, trials_of_views
from l2o_splat.plugin.datamanager import L2ODataManager, L2ODataManagerConfig
from l2o_splat.plugin.errors import OptionError
from l2o_splat.plugin.growing import VIEWS_THAT_CONFIRM, final_count, most_in_memory, views_ahead
from l2o_splat.plugin.held_out_quality import mean_quality
from l2o_splat.plugin.model import L2OModel, L2OModelConfig
from l2o_splat.plugin.run_plan import RULE, RunPlan
from l2o_splat.plugin.run_progress import phase
from l2o_splat.plugin.saved_capture import SavedCapture
from l2o_splat.plugin.starts import GivenUpError, InitializationConfig, StartRequest, start_scene
from l2o_splat.plugin.viewer import SceneViewer
from l2o_splat.progress import ProgressReporter
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.rendering.dropout import dropped
from l2o_splat.rendering.trial import draw_trial_image
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.schedule.run_schedule import RunSchedule
from l2o_splat.views import StoredPhotographs, Views

SCHEDULE = "schedule"
"""Entry of the pipeline's extra state for the schedule of the run."""
SOURCE = "source"
"""Entry of a run's schedule in a checkpoint: where its scene started."""
VIEWS = "views"
"""Entry of that schedule for how many views steps had so far."""
EXPOSURE = "exposure"
"""Entry of the pipeline's extra state for the transforms of the training photographs' colours."""


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

    Only a trainer starts the scene; evaluation, viewer and export take everything from the checkpoint.
    """

    config: L2OPipelineConfig
    datamanager: L2ODataManager
    model: L2OModel

    def __init__(self, config: L2OPipelineConfig, device, test_mode="val", world_size=1, **kwargs) -> None:
        if world_size > 1:
            raise OptionError(
                f"{world_size} processes were asked for; a joint optimizer moves a scene in one process: use "
                "--machine.num-devices 1."
            )
        if test_mode == "test":
            check_data_path(config.datamanager.data or config.datamanager.dataparser.data, trained=True)
        trains = test_mode != "inference"
        of_views = trials_of_views(config.model.refines_poses, config.model.learns_exposures)
        trials = TRIALS + trials_of_start(config.initialization.source) + of_views
        with compiling(device, trials) if trains else nullcontext():
            super().__init__(config, device, test_mode=test_mode, world_size=world_size, **kwargs)
        self._optimizer: JointOptimizer | None = None
        self._start: SceneStart | None = None
        self._source, self._rule = config.initialization.source, None
        """Where the scene starts."""
        self._averages = 0.0
        """Earlier scenes that the average after the present step reaches over, if the run keeps one."""
        self._share = 0.0
        """Share of the budget, or of the horizon, spent before the present step."""
        self._thinned_after: int | None = None
        """Steps after which the run lets go of its prediction, and removes what it has no use for."""
        self._saved: SavedCapture | None = None
        self.exposure: ExposureCompensation | None = None
        """Transforms of the training photographs' colours, if a run learns some."""
        self.schedule: RunSchedule | None = None
        """What the run does when; a trainer sets it."""
        self.saved_schedule: dict | None = None
        """What a checkpoint that was loaded says of it; None for one of a version that saved none."""
        self.viewer = SceneViewer(self)
        """What nerfstudio's viewer shows beyond its own; nerfstudio finds it here."""
        self.progress: ProgressReporter | None = None
        """Tells other programs how far the run is; a trainer sets it."""
        if trains:
            # Load the machine code now: nerfstudio's viewer aborts images at any line, also inside a compiler.
            draw_trial_image(self.device)

    def insight(self) -> dict[str, Float[Tensor, " n"]]:
        """What the rule of a run knows of each Gaussian, 0 to 1, by name."""
        return {} if self._optimizer is None else self._optimizer.insight()

    def load_pipeline(self, loaded_state: dict, step: int) -> None:
        """Take scene and capture from a checkpoint.

        Raises:
            BrokenCheckpointError: If it holds no Gaussians.
            CaptureError: If it belongs to another capture.
        """
        scene_of(loaded_state)
        super().load_pipeline(loaded_state, step)
        if self.model.refines_poses:
            self._hand_out_refined_poses()
        self.datamanager.config.saved_background = tuple(self.model.background.tolist())
        self.datamanager.offer_paths()

    def start_scene(self, plan: RunPlan, resumes: bool = False) -> RunPlan:
        """Let the initializer fill the model, before optimizers exist.

        Args:
            plan: Of the run.
            resumes: Whether a checkpoint replaces the Gaussians, so that a cheap start will do.

        Returns:
            The plan; if a guarded prediction is given up, that of a run without it.

        Raises:
            ValueError: If the capture or the weights do not suit.
        """
        try:
            self._start = self._started(plan, resumes)
        except GivenUpError as found:
            plan = plan.without_prediction(found.source)
            CONSOLE.log(
                f"{found}: the scene starts from the points, with {plan.rules[0]} from the first step. "
                "--preset paper keeps the prediction and its updates."
            )
            self._start = self._started(plan, resumes)
        self._source, self._rule, self._thinned_after = plan.source, plan.rules[0], plan.thinned_after
        self.model.set_gaussians(self._start.gaussians)
        gaussians, schedule, views = self._start.gaussians, self.schedule, self.datamanager.config.views_per_step
        # A start that predicts colours by direction keeps them, whatever their degree.
        has_directions = bool(gaussians.features_rest.any())
        photographs, pixels = len(self.datamanager.train_dataset), self.datamanager.mean_pixels
        schedule.set_capture(photographs, pixels, len(gaussians), has_directions)
        if schedule.preset.adaptive:
            schedule.last_count = most_in_memory(gaussians, views)
        else:
            schedule.last_count = final_count(gaussians, schedule.growth_factor, views)
        if plan.last_needs.precision:
            self.model.hold(self._start.precision)
        return plan

    def _started(self, plan: RunPlan, resumes: bool) -> SceneStart:
        options = replace(self.config.initialization, source=plan.source)
        if resumes and plan.source in ("dense", "predicted", "file"):
            options = replace(options, source="auto", pad=False)
        seconds = self.schedule.seconds
        request = StartRequest(
            options, plan.start_weights, self.datamanager, self.model, seconds, guarded=plan.guards_start
        )
        return start_scene(request, plan.needs)

    def bind(self, optimizer: JointOptimizer) -> None:
        """Give the rule what is known of the scene, and draw as it was trained with."""
        if self._source != self.config.initialization.source:
            # Its updates were to improve a prediction that was given up.
            optimizer.rule = optimizer.rule.second
        # As before the capture changed, if it did: a rule goes on with the scene that it was bound to.
        known, context = self._saved or self.datamanager.capture(), self._start.context
        scene = SceneKnowledge(known.centres, known.rescaled_by, None if context is None else context.cameras)
        optimizer.bind(scene, self._start)
        self._optimizer = optimizer
        if self.config.model.learns_exposures:
            photographs = self.datamanager.capture().training
            only_outliers = self.config.model.exposure == "outliers"
            self.exposure = ExposureCompensation(photographs, self.device, only_outliers=only_outliers)
            optimizer.register_step_post_hook(lambda *_: self.exposure.step(self._share))
        self.model.adopt_raster(optimizer.rule.trained_raster or {})
        if self.model.refines_poses:
            poses = self.model.camera_optimizer
            poses.set_distance(self.datamanager.all_pinholes(), self.model.gaussians)
            self._hand_out_refined_poses()
            optimizer.register_step_post_hook(lambda *_: poses.step(self._share))
        longest = self.schedule.preset.max_elongation
        if longest is not None:
            optimizer.register_step_post_hook(lambda *_: bound_elongation(optimizer.gaussians, longest))
        if self.schedule.preset.averages is not None:
            optimizer.keep_average()
            optimizer.register_step_post_hook(lambda *_: optimizer.follow_average(self._averages))
            self.model.show_average = lambda shown: optimizer.average.show(shown)

    def _hand_out_refined_poses(self) -> None:
        """Let the data manager show training views from where they are now, and move those held out with them."""
        poses = self.model.camera_optimizer
        if self.test_mode == "inference":
            return
        present = self.datamanager.capture().training
        if self._saved is not None and self._saved.training[: poses.num_cameras] != present:
            known = {name: row for row, name in enumerate(self._saved.training[: poses.num_cameras])}
            poses.reorder([known.get(name) for name in present])
        self.datamanager.refine_cameras = poses.refined
        if poses.config.carry_held_out:
            self.datamanager.refine_poses = poses.refined_poses

    def follow(self, state: dict) -> None:
        """Show the capture in the frame of the checkpoint whose extra state is given.

        Raises:
            CaptureError: If the checkpoint belongs to another capture, or poses have changed.
        """
        of_run = (SCHEDULE, EXPOSURE)
        saved = SavedCapture.from_state({name: value for name, value in state.items() if name not in of_run})
        if saved is not None and self._saved is None:
            self.datamanager.follow(saved)
            self._saved = saved

    def get_extra_state(self) -> dict:
        """The capture and the frame of the scene; of a run also its schedule and what it knows of exposures."""
        present = self.datamanager.capture()
        if self._saved is not None:
            trained = [name for name in self._saved.training if name not in set(present.training)]
            present = replace(
                present,
                training=present.training + trained,
                centres=self._saved.centres,
                rescaled_by=self._saved.rescaled_by,
            )
        state = present.state()
        if self.exposure is not None:
            state[EXPOSURE] = self.exposure.state()
        if self.schedule is None:
            return state
        changes = self.datamanager.view_sampler.changes
        return state | {SCHEDULE: self.schedule.state() | {VIEWS: changes, SOURCE: self._source, RULE: self._rule}}

    def set_extra_state(self, state: dict) -> None:
        self.follow(state)
        self.saved_schedule = state.get(SCHEDULE)
        if self.exposure is not None and EXPOSURE in state:
            self.exposure.load(state[EXPOSURE])
        if self.schedule is not None and self.saved_schedule is not None and VIEWS in self.saved_schedule:
            self.datamanager.view_sampler.resume(self.saved_schedule[VIEWS])

    def get_train_loss_dict(self, step: int):
        """Loss of the step's views, summed over views; of the context views in steps with renders."""
        self._optimizer.progress, self._share = self.schedule.progress(step), self.schedule.pace.progress(step)
        self.datamanager.view_sampler.change(step, self.schedule.views(step, self.datamanager.config.views_per_step))
        if self._optimizer.feedback_kind == "renders":
            # Such updates are few and large.
            self._averages = 0.0
            return self._show_context()
        self._averages = self.schedule.averages(step)
        context_steps = self._optimizer.rule.needs.context_steps
        held = self._optimizer.inner_step < context_steps
        scale = 1.0 if held else self.datamanager.usable_scale(self.schedule.image_scale(step))
        degree = self.model.config.sh_degree if held else self.schedule.sh_degree(step)
        drawn = self.model.training_raster(scale, degree)
        if self._optimizer.inner_step == self._thinned_after:
            self._thin(step, scale, drawn)
        self._grow_if_due(step, scale, drawn)
        if held:
            context = self._start.context
            photographs = [replace(context, cameras=self.datamanager.refined(context.cameras))]
        else:
            photographs = self.datamanager.next_train_photographs(step, self.model.background_here, scale)
        photographs = self._exposed(photographs)
        wanted = self._optimizer.evidence_kinds
        share = 0.0 if held else self.schedule.dropout(step)
        seen = dropped(self.model.gaussians, share, self.datamanager.config.view_seed, step)
        # The loss of the config is that of the rule that holds Gaussians, if another one follows it.
        loss = "photometric" if context_steps and not held else self.config.model.loss
        loss_dict, metrics_dict, self._optimizer.evidence = self.model.step_loss(photographs, drawn, wanted, seen, loss)
        count = sum(len(group) for group in photographs)
        self._optimizer.loss = sum(loss_dict.values()).detach() / count
        if self.schedule.controller is not None:
            if self.schedule.controller.watches_loss:
                self.schedule.observe(float(self._optimizer.loss))
            self._optimizer.gains = None if held else self.schedule.gains(step)
        pixels = sum(len(group) * group.cameras.width * group.cameras.height for group in photographs)
        self._optimizer.pixels = pixels / count
        return {}, loss_dict, metrics_dict

    def _exposed(self, photographs: list[StoredPhotographs] | list[Views]) -> list[StoredPhotographs] | list[Views]:
        return photographs if self.exposure is None else self.exposure.put_on(photographs)

    @torch.no_grad()
    def _thin(self, step: int, scale: float, drawn: RasterSettings) -> None:
        photographs = views_ahead(self.datamanager, step, VIEWS_THAT_CONFIRM, self.model.background_here, scale)
        before = self.model.num_points
        thin_scene(self._optimizer, photographs, drawn)
        if (removed := before - self.model.num_points) > 0:
            CONSOLE.log(f"{removed} of {before} Gaussians go, which fewer than two photographs show.")

    @torch.no_grad()
    def _grow_if_due(self, step: int, scale: float, drawn: RasterSettings) -> None:
        event = self.schedule.event_before(step, self.datamanager.config.views_per_step)
        if event is None:
            return
        count = self.schedule.views_looked_at(self.datamanager.config.views_per_step)
        looked_at = self._exposed(views_ahead(self.datamanager, step, count, self.model.background_here, scale))
        generator = event_generator(self.datamanager.config.view_seed, event)
        if self.schedule.preset.adaptive:
            adapt_scene(self._optimizer, looked_at, self.schedule.last_count, drawn, generator)
        else:
            growth, first = self.schedule.growth_at(step), self.schedule.first_count
            grow_scene(self._optimizer, looked_at, growth, first, event, drawn, generator)
        self.schedule.events_done += 1

    @torch.no_grad()
    def _show_context(self):
        """Show the rule the context views, without a graph through the renders.

        nerfstudio calls ``backward`` on the loss, and ``step`` on optimizers whose parameters have a gradient. An empty
        sum of the means satisfies both: it adds nothing, its backward pass is one tensor of zeros, and the rule gets no
        gradients.
        """
        context = self._start.context
        shown = self.model.show(context)
        loss_dict, metrics_dict = self.model.training_loss([shown])
        self._optimizer.rendered = shown
        self._optimizer.loss = sum(loss_dict.values()) / len(context)
        with torch.enable_grad():
            loss_dict = {name: value + self.model.means[:0].sum() for name, value in loss_dict.items()}
        return {}, loss_dict, metrics_dict

    def measure_uncertainty(self) -> None:
        """Bring what the output `uncertainty` needs up to date with the scene, where it changes with it."""
        if self.model.precision is not None and self.config.model.uncertainty == "laplace":
            context = self._start.context
            with torch.no_grad():
                context = replace(context, cameras=self.datamanager.refined(context.cameras))
            self.model.measure_curvature(context)

    def get_average_image_metrics(self, data_loader, image_prefix, step=None, output_path=None, get_std: bool = False):
        """Mean quality over views, see :func:`mean_quality`."""
        self.eval()
        metrics = mean_quality(self.model, data_loader, image_prefix, output_path, get_std)
        self.train()
        return metrics

    def get_average_eval_image_metrics(self, step=None, output_path=None, get_std: bool = False):
        """Mean quality over the views held out, printed in one line as well."""
        if len(self.datamanager.eval_dataset) == 0:
            if step is None:
                CONSOLE.log("No photograph is held out for evaluation, so there is no quality to report.")
            return {}
        with phase(self.progress, "evaluating"):
            metrics = super().get_average_eval_image_metrics(step, output_path, get_std)
            if self.progress is not None:
                self.progress.report(psnr_held_out=metrics.get("psnr"))
        formats = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}", "lpips": "LPIPS {:.4f}"}
        quality = ", ".join(text.format(metrics[name]) for name, text in formats.items() if name in metrics)
        quality = quality or "No quality"
        when = "" if step is None else f"After {step + 1} steps: "
        views = len(self.datamanager.eval_dataset)
        CONSOLE.log(f"{when}{quality} on {views} held-out views, {self.model.num_points} Gaussians.")
        if self.model.refines_poses:
            CONSOLE.log(self.model.camera_optimizer.describe())
        return metrics

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Those of data manager and model, what was learnt of exposures, and a last evaluation; one before the first
        step of a scene that is held."""
        report = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self.get_average_eval_image_metrics)
        before = (0,) if self.model.precision is not None else ()
        first = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._report_start, iters=before)
        exposures = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._report_exposures)
        return [*super().get_training_callbacks(training_callback_attributes), first, exposures, report]

    def _report_exposures(self, step: int) -> None:
        if self.exposure is not None:
            CONSOLE.log(self.exposure.describe())

    def _report_start(self, step: int) -> None:
        """What the initializer is worth by itself."""
        self.get_average_eval_image_metrics(step=step - 1)
