"""The model: Gaussians in nerfstudio's parametrisation, drawn by our renderer on any device."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.utils.colors import get_color
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torch.nn import Parameter

from l2o_splat.devices import sent_like
from l2o_splat.gaussians import FIELDS, SH_C0, Gaussians
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.implicit.uncertainty import group_curvature, relative_uncertainty
from l2o_splat.losses import photometric_loss, squared_loss
from l2o_splat.metrics import Lpips, colour_corrected, psnr, ssim
from l2o_splat.optim.rule import RenderedViews
from l2o_splat.plugin.camera_optimizer import PoseOptimizerConfig
from l2o_splat.plugin.errors import NO_RAYS, OptionError, PluginError
from l2o_splat.plugin.photographs import photograph_and_mask, pinhole_cameras
from l2o_splat.plugin.shown_values import ShownValues
from l2o_splat.rendering import ImageRules, RasterSettings, Rendering, render
from l2o_splat.rendering.evidence import Evidence, EvidenceKind
from l2o_splat.rendering.exposure import exposed
from l2o_splat.rendering.rendered_loss import rendered_loss, squared_errors
from l2o_splat.rendering.values import draw_values
from l2o_splat.views import Photographs, PinholeCameras, Views

ImageLoss = Literal["photometric", "squared"]
Exposure = Literal["off", "affine", "outliers"]


@dataclass
class L2OModelConfig(ModelConfig):
    """How Gaussians are stored, drawn and compared with the photographs."""

    _target: type = field(default_factory=lambda: L2OModel)
    sh_degree: int = 3
    """Degree of the spherical harmonics, 0 to 3; all bands are used from the first step."""
    rasterize_mode: Literal["classic", "antialiased"] | None = None
    """As in splatfacto. None: as the rule's weights were trained with, else classic, which PLY viewers expect."""
    eps2d: float | None = None
    """Screen-space blur, pixels squared. None: as the rule's weights were trained with, else 0.3, as in PLY viewers."""
    background_color: Literal["black", "white"] = "black"
    """Colour behind the scene."""
    image_rules: ImageRules | None = None
    """gsplat release whose image rules the CPU renderer follows; on CUDA the installed gsplat's hold. None: as the
    rule's weights were trained with, else 1.4."""
    ssim_weight: float = 0.2
    """Share of the SSIM term in the training loss."""
    loss: ImageLoss = "photometric"
    """photometric: L1 and SSIM. squared: squared differences, for which the precisions of diff3r are calibrated."""
    exposure: Exposure | None = None
    """affine: each training photograph has an affine transform of colours that is learnt beside the scene, so that one
    that is brighter does not brighten the scene. outliers: those alone that are over 10 % brighter or darker than the
    others. Held-out views are drawn without any. None: outliers for rules that hold the start with the
    preset fast, else off."""
    color_corrected_metrics: bool = False
    """Measure held-out views also after the affine transform of colours that suits each best, as cc_psnr, cc_ssim and
    cc_lpips (splatfacto's names)."""
    uncertainty: Literal["precision", "laplace"] = "precision"
    """What the output `uncertainty` of diff3r shows: the inverse of the precision, or of the precision and what the
    context views say about each Gaussian, measured whenever a checkpoint is saved (Laplace approximation)."""
    camera_optimizer: PoseOptimizerConfig = field(default_factory=PoseOptimizerConfig)
    """Refinement of the training views' poses."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Saved by a version that left all poses as they were.
        vars(self).update({"camera_optimizer": PoseOptimizerConfig()} | state)

    @property
    def refines_poses(self) -> bool:
        """Whether the poses of training views move."""
        return self.camera_optimizer.mode != "off"

    @property
    def learns_exposures(self) -> bool:
        """Whether training photographs have transforms of colours, once the preset has been asked."""
        return self.exposure not in (None, "off")


_FOLLOWED = ("rasterize_mode", "eps2d", "image_rules")
"""Raster settings that follow the rule's weights or a checkpoint where the user has not chosen."""


POSES = "camera_optimizer."
"""Begins the names of what a checkpoint knows of refined poses."""


class RasterSettingsMismatchError(PluginError):
    """A checkpoint was trained with other raster settings than the run that loads it."""


class L2OModel(SplatfactoModel):
    """Gaussians that one joint optimizer moves; viewer and exporter take it for a splatfacto model.

    It starts empty. The pipeline fills it from an initializer, or a checkpoint does.
    """

    config: L2OModelConfig

    def populate_modules(self) -> None:
        Model.populate_modules(self)
        if not 0 <= self.config.sh_degree <= 3:
            raise OptionError(f"--pipeline.model.sh-degree is {self.config.sh_degree}; 0, 1, 2 or 3 is needed.")
        if not (math.isfinite(self.config.ssim_weight) and 0 <= self.config.ssim_weight <= 1):
            raise OptionError(f"--pipeline.model.ssim-weight is {self.config.ssim_weight}; 0 to 1 is needed.")
        bands = (self.config.sh_degree + 1) ** 2 - 1
        shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (1,), "features_dc": (3,)}
        shapes["features_rest"] = (bands, 3)
        self.gauss_params = torch.nn.ParameterDict({name: Parameter(torch.empty(0, *shapes[name])) for name in FIELDS})
        self.crop_box = None
        self.background = get_color(self.config.background_color)
        self._raster = RasterSettings(background=tuple(self.background.tolist()), **self._chosen_raster())
        self.step = 0
        self.lpips = Lpips()
        self.shown_values: ShownValues | None = None
        """What a viewer shows of each Gaussian; None without a viewer."""
        self.show_average: Callable[[bool], object] | None = None
        """Lets the parameters hold the average of the last scenes, or the scene; None in runs that keep none."""
        # [n, 5] each, with the rule proximal alone; in checkpoints, for the output `uncertainty`.
        self.register_buffer("precision", None)
        self.register_buffer("curvature", None)
        if self.config.refines_poses:
            self.camera_optimizer = self.config.camera_optimizer.setup(num_cameras=self.num_train_data, device="cpu")

    @property
    def refines_poses(self) -> bool:
        """Whether the poses of training views move, as ``camera_optimizer`` says."""
        return self.config.refines_poses

    def train(self, mode: bool = True) -> L2OModel:
        """As torch's; outside of training the parameters hold the average of the last scenes, if one is kept."""
        if self.show_average is not None:
            self.show_average(not mode)
        return super().train(mode)

    @property
    def gaussians(self) -> Gaussians:
        """The parameters; gradients flow into them."""
        return Gaussians.from_mapping(self.gauss_params)

    @property
    def background_here(self) -> Float[Tensor, " 3"]:
        """Colour behind the scene, sRGB 0 to 1, where the scene is."""
        return sent_like(self.background, self.gauss_params["means"])

    def set_background(self, background_color: Tensor) -> None:
        """Ignored: the viewer sets its own colour while it draws, which would change training and checkpoints."""

    def set_gaussians(self, gaussians: Gaussians) -> None:
        """Put other Gaussians into the parameters, which stay the same objects."""
        if gaussians.sh_degree != self.config.sh_degree:
            raise OptionError(
                f"The Gaussians have SH degree {gaussians.sh_degree}, the model {self.config.sh_degree}; set "
                f"--pipeline.model.sh-degree {gaussians.sh_degree}."
            )
        for name, value in gaussians.items():
            self.gauss_params[name].data = value.detach().to(self.device, torch.float32).clone()

    def hold(self, precision: Float[Tensor, "n 5"]) -> None:
        """Keep how strongly each Gaussian is held; see :mod:`l2o_splat.optim.precision`."""
        self.precision = precision.detach().clone()

    def measure_curvature(self, context: Views) -> None:
        """Remember what the context views say about each Gaussian as it is now."""
        self.curvature = group_curvature(self.gaussians.detach(), ContextViews(context, self.raster_settings()))

    @property
    def colors(self) -> Tensor:
        return 0.5 + SH_C0 * self.features_dc

    @property
    def shs_0(self) -> Tensor:
        return self.features_dc

    def raster_settings(self, depth: bool = False) -> RasterSettings:
        """Settings of every image this model draws."""
        return replace(self._raster, depth=depth)

    def training_raster(self, image_scale: float, sh_degree: int) -> RasterSettings:
        """Settings of the images of a step."""
        drawn = min(sh_degree, self.config.sh_degree)
        settings = self._raster.reduced(image_scale)
        return replace(settings, sh_degree=None if drawn == self.config.sh_degree else drawn)

    def _chosen_raster(self) -> dict[str, Any]:
        """Raster settings the user has chosen; the others follow the rule's weights or a checkpoint."""
        chosen = {name: getattr(self.config, name) for name in _FOLLOWED}
        return {name: value for name, value in chosen.items() if value is not None}

    def adopt_raster(self, trained: dict[str, Any]) -> None:
        """Draw as the weights of a rule were trained with, where the user has not chosen otherwise."""
        chosen = self._chosen_raster()
        self._raster = replace(self._raster, **{name: trained[name] for name in trained.keys() - chosen.keys()})

    def get_extra_state(self) -> dict:
        settings = asdict(self.raster_settings())
        return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}

    def set_extra_state(self, state: dict) -> None:
        # What the user has not chosen follows the checkpoint.
        self.adopt_raster({name: state[name] for name in _FOLLOWED if name in state})
        expected = self.get_extra_state()
        changed = {name: value for name, value in state.items() if expected.get(name) != value}
        if changed:
            now = {name: expected.get(name) for name in changed}
            raise RasterSettingsMismatchError(
                f"The checkpoint was trained with raster settings {changed}, this run has {now}; set them as in the "
                "checkpoint's config.yml."
            )

    def load_state_dict(self, dict, **kwargs):
        """Copy a checkpoint into the parameters, whatever its number of Gaussians."""
        self.set_gaussians(Gaussians.from_mapping({name: dict[f"gauss_params.{name}"] for name in FIELDS}))
        for name in ("precision", "curvature"):
            setattr(self, name, dict[name].to(self.device).clone() if name in dict else None)
        dict = self._with_poses(dict)
        return Model.load_state_dict(self, dict, **kwargs)

    def _with_poses(self, state: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint with poses of as many views as it has, or with those of now if it has none."""
        saved = f"{POSES}steps" in state
        if saved and not self.refines_poses:
            raise PluginError(
                "The checkpoint was trained with refined poses, and --pipeline.model.camera-optimizer.mode is off; set "
                "it as in the checkpoint's config.yml."
            )
        if saved:
            self.camera_optimizer.take_rows(state, POSES)
        elif self.refines_poses:
            return state | {POSES + name: value for name, value in self.camera_optimizer.state_dict().items()}
        return state

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """One group: the six fields in packing order, for one joint optimizer."""
        return {"gaussians": [self.gauss_params[name] for name in FIELDS]}

    def get_training_callbacks(self, training_callback_attributes) -> list:
        """None: what changes during a run is the pipeline's and the trainer's."""
        return []

    def render(self, cameras: PinholeCameras, depth: bool = False) -> Rendering:
        """Draw all Gaussians."""
        return render(self.gaussians, cameras, self.raster_settings(depth))

    def show(self, views: Views) -> RenderedViews:
        """Photographs beside what the scene looks like now."""
        return RenderedViews(views, self.render(views.cameras).rgb)

    def step_loss(
        self,
        shown: Sequence[Photographs],
        drawn: RasterSettings,
        evidence: Collection[EvidenceKind] = (),
        gaussians: Gaussians | None = None,
        loss: ImageLoss | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Evidence | None]:
        """Draw some cameras and compare: loss (mean over pixels, sum over views), metrics and evidence of a step.

        Renders are compared in the exposures of the photographs, if they have any. Masked pixels count in neither. If
        nothing counts in any view there is no PSNR, or a NaN on a GPU.

        Args:
            shown: The photographs of the step, one entry per image size.
            drawn: Settings of the images, see :meth:`training_raster`.
            evidence: Which sums to find beside the loss; the squared loss gives none.
            gaussians: The scene as the step sees it, see :mod:`l2o_splat.rendering.dropout`; None draws all of it.
            loss: Kind of image loss; None takes that of the config.
        """
        gaussians, loss = self.gaussians if gaussians is None else gaussians, loss or self.config.loss
        if loss == "squared":
            views = [photographs.views() for photographs in shown]
            drawn_views = [RenderedViews(each, render(gaussians, each.cameras, drawn).rgb) for each in views]
            return *self.training_loss(drawn_views, loss), None
        found = [
            rendered_loss(gaussians, photographs, drawn, self.config.ssim_weight, evidence=evidence)
            for photographs in shown
        ]
        total = torch.stack([part.loss for part in found]).sum()
        seen = Evidence.total([part.evidence for part in found]) if evidence else None
        return {loss: total}, self._step_metrics([part.squared_errors for part in found]), seen

    def training_loss(
        self, shown: Sequence[RenderedViews], loss: ImageLoss | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss and metrics of views that are drawn already, see :meth:`step_loss`."""
        loss = loss or self.config.loss
        compared = [(exposed(group.images, group.views.exposures), group.views) for group in shown]
        losses = [self._image_loss(loss, images, views.images, views.masks) for images, views in compared]
        errors = [squared_errors(images.detach(), views) for images, views in compared]
        return {loss: torch.stack(losses).sum()}, self._step_metrics(errors)

    def _step_metrics(self, squared_errors: list[Float[Tensor, " v"]]) -> dict[str, Tensor]:
        metrics = {"gaussian_count": torch.tensor(float(self.num_points))}
        errors = torch.cat(squared_errors)
        if not errors.is_cpu:
            # To leave the number out where nothing counts, the host would have to wait for the device.
            return metrics | {"psnr": (-10 * torch.log10(errors)).nanmean()}
        errors = errors[~errors.isnan()]
        if len(errors):
            metrics["psnr"] = -10 * torch.log10(errors).mean()
        return metrics

    def _image_loss(self, loss: ImageLoss, rendered: Tensor, images: Tensor, masks: Tensor | None) -> Float[Tensor, ""]:
        if loss == "squared":
            return squared_loss(rendered, images, masks)
        return photometric_loss(rendered, images, masks, self.config.ssim_weight)

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:
        """Draw one camera: ``rgb`` clamped to 0..1, ``depth`` (scene units), ``accumulation``, ``background``.

        A scene with a precision also gives ``uncertainty``, 0 to 1, see
        :mod:`l2o_splat.implicit.uncertainty`; in a viewer beside a training there is what the rule knows as well.

        Raises:
            PluginError: For rays, and for a camera that is no pinhole; images of other cameras are undistorted when
                loaded, so only a render path can ask for one.
        """
        fault = self._cannot_draw(camera)
        if fault is not None:
            if threading.current_thread() is threading.main_thread():
                raise PluginError(fault)
            # nerfstudio's viewer would end without a word.
            CONSOLE.log(f"[bold yellow]{fault}")
            return self._nothing(int(camera.height[0]), int(camera.width[0]))
        cameras = pinhole_cameras(camera.to(self.device))
        gaussians, visible = self.gaussians, slice(None)
        if self.crop_box is not None and not self.training:
            visible = self.crop_box.within(self.means).squeeze(-1)
            gaussians = gaussians[visible]
        rendering = render(gaussians, cameras, self.raster_settings(depth=True))
        alpha, depth = rendering.alpha[0], rendering.depth[0]
        outputs = {
            "rgb": rendering.rgb[0].clamp(0, 1),
            "depth": torch.where(alpha > 0, depth, depth.detach().max()),
            "accumulation": alpha,
            "background": self.background_here.expand(cameras.height, cameras.width, 3),
        }
        for name, values in self._values().items():
            if values is None:
                outputs[name] = torch.zeros_like(alpha)
            else:
                outputs[name] = draw_values(gaussians, values[visible], cameras, self.raster_settings())[0]
        return outputs

    def _values(self) -> dict[str, Float[Tensor, " n"] | None]:
        """What an image shows of each Gaussian, 0 to 1, by the name of the output; None if nobody looks at it.

        nerfstudio's viewer asks for all outputs to show one, so that those that are not selected there are not drawn.
        """
        known = {} if self.precision is None or self.training else {"uncertainty": self.relative_uncertainty}
        if self.shown_values is None or threading.current_thread() is threading.main_thread():
            return {name: find() for name, find in known.items()}
        return self.shown_values.of(known)

    def _cannot_draw(self, camera: Cameras | RayBundle) -> str | None:
        """Why a camera cannot be drawn; None if it can be."""
        if not isinstance(camera, Cameras):
            return NO_RAYS
        if camera.shape[0] != 1:
            return f"{camera.shape[0]} cameras were given; views are drawn one at a time here."
        kind = int(camera.camera_type[0])
        if not self.training and kind not in (CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value):
            return f"A {CameraType(kind).name} camera cannot be rasterized; choose a perspective one."
        return None

    def _nothing(self, height: int, width: int) -> dict[str, Tensor]:
        """The outputs of an image in which nothing is seen."""
        background, empty = self.background_here, torch.zeros(height, width, 1, device=self.device)
        outputs = {name: background.expand(height, width, 3) for name in ("rgb", "background")}
        return outputs | dict.fromkeys(("depth", "accumulation", *self._values()), empty)

    def relative_uncertainty(self) -> Float[Tensor, " n"]:
        """Uncertainty of every Gaussian of a scene with a precision, 0 to 1."""
        information = self.precision
        if self.config.uncertainty == "laplace" and self.curvature is not None:
            information = information + self.curvature
        return relative_uncertainty(1 / information, self.gaussians)

    def get_metrics_dict(self, outputs: dict, batch: dict) -> dict[str, Tensor]:
        rendered = outputs["rgb"]
        photograph, mask = photograph_and_mask(batch, self.background_here)
        metrics, quality = {"gaussian_count": torch.tensor(self.num_points)}, psnr(rendered, photograph, mask)
        return metrics if quality is None else {"psnr": torch.tensor(quality)} | metrics

    def get_loss_dict(self, outputs: dict, batch: dict, metrics_dict: dict | None = None) -> dict[str, Tensor]:
        rendered = outputs["rgb"]
        photograph, mask = photograph_and_mask(batch, self.background_here)
        masks = None if mask is None else mask[None]
        return {self.config.loss: self._image_loss(self.config.loss, rendered[None], photograph[None], masks)}

    def get_image_metrics_and_images(self, outputs: dict, batch: dict) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Quality of one view, as far as its pixels count, and the photograph beside the render."""
        rendered = outputs["rgb"]
        photograph, mask = photograph_and_mask(batch, self.background_here)
        measures = {"psnr": psnr, "ssim": ssim, "lpips": self.lpips}
        found = {name: measure(rendered, photograph, mask) for name, measure in measures.items()}
        if self.config.color_corrected_metrics:
            corrected = colour_corrected(rendered, photograph, mask)
            found |= {f"cc_{name}": measure(corrected, photograph, mask) for name, measure in measures.items()}
        metrics = {name: value for name, value in found.items() if value is not None}
        return metrics, {"img": torch.cat([photograph, rendered], dim=1)}
