"""Where a scene starts inside nerfstudio: each source of ``--pipeline.initialization.source`` gives a SceneStart.

To add a source, write a function that takes a :class:`StartRequest`, and register it in ``STARTS``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from l2o_splat.bench.ply import PlyFrame
from l2o_splat.errors import L2OError
from l2o_splat.implicit.heuristic import heuristic_precision
from l2o_splat.implicit.linearized_views import ContextViews
from l2o_splat.initializers.context_views import depth_range, lonely_views
from l2o_splat.initializers.dense import DenseHead, DenseOptions, dense_gaussians
from l2o_splat.initializers.dense.head import WEIGHTS as DENSE
from l2o_splat.initializers.diff3r import predicted_precision, read_diff3r
from l2o_splat.initializers.joined_points import joined_points
from l2o_splat.initializers.point_vote import depth_error
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points, padded, random_points
from l2o_splat.initializers.resplat import DepthRange, InitialScene, ReSplatInitializer, SparsePoints
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.optim.precision import check_precision
from l2o_splat.optim.rule import Needs
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.context_views import OPTION, ContextConfig, choose_for_networks, context_of_rule
from l2o_splat.plugin.datamanager import L2ODataManager
from l2o_splat.plugin.file_start import start_from_file
from l2o_splat.plugin.model import L2OModel
from l2o_splat.plugin.photographs import pinhole_cameras
from l2o_splat.scene import SceneStart
from l2o_splat.threads import get_num_threads
from l2o_splat.views import PinholeCameras
from l2o_splat.weights import Weights, load_weights
from l2o_splat.weights.resplat import read_tensors

NUM_RANDOM_POINTS = 20_000
FEW_POINTS = 200
"""Sparse points per context view below which places are predicted beside them; more are as good alone."""
PLACES = 500
"""Points and predicted places per context view then."""
LARGEST_DEPTH_ERROR = 0.02
"""Median relative error of predicted depths at sparse points up to which a prediction is kept where points vote."""
START_WEIGHTS = {"dense": DENSE, "predicted": "resplat-mini", "resplat": "resplat-mini", "diff3r": "diff3r-mini"}
"""Sources with a network, and the weights of it that come with the package."""
PREDICTIONS = ("predicted", "resplat", "diff3r")
"""Sources whose places a network predicts from context views."""


@dataclass
class InitializationConfig:
    """Where the Gaussians start."""

    source: Literal["auto", "sfm", "random", "dense", "predicted", "resplat", "diff3r", "file"] = "auto"
    """sfm: structure-from-motion points. random: random points. dense: flat Gaussians on the surfaces, from depths that
    start at these points and are agreed on by several photographs; a network sizes them. predicted: the points, and
    where there are fewer than 200 for each photograph that ReSplat's initial model looks at, places between them that
    it predicts. auto: sfm, and random for captures without points. resplat: what ReSplat's initial model makes of some
    photographs. diff3r: the same with a network beside it that says how strongly to hold each Gaussian. file: the
    Gaussians that another program has made."""
    file: Path | None = None
    """Gaussians of the source file: a splat (.ply, .spz, .sog), or .safetensors with a tensor per field."""
    frame: PlyFrame = "detect"
    """Coordinates of the file. capture: those of the capture's original poses, COLMAP's say. dataparser: those of a run
    of nerfstudio, as l2o export writes them. transforms: those of transforms.json where they differ from the original
    ones. detect: whichever shows the training photographs best."""
    num_points: int | None = None
    """Gaussians to start with; of more points a random choice is taken. None takes all (20000 random ones). The source
    dense makes at most so many; None leaves their number to it."""
    pad: bool = False
    """Fill up to num_points with invisible Gaussians when the capture has fewer points."""
    seed: int = 0
    """Seed of the random choice."""
    weights: str | None = None
    """Weights of the source dense, predicted, resplat or diff3r, named like those of a rule; None takes those of the
    rule resplat, or those that come with the package: dense-mini, resplat-mini or diff3r-mini."""
    context: ContextConfig = field(default_factory=ContextConfig)
    """Which photographs ReSplat's initial model sees, and rules that hold the start refine on."""


@dataclass(frozen=True)
class StartRequest:
    """What a start is made from."""

    options: InitializationConfig
    weights: str | None
    """Weights of the source's network; None for points."""
    datamanager: L2ODataManager
    """Has the photographs and the points."""
    model: L2OModel
    """Draws the scene."""
    seconds: float | None = None
    """Time budget of the run; None counts steps."""
    guarded: bool = False
    """Whether a network's prediction is to be given up for a better start, see :class:`GivenUpError`."""

    @property
    def background(self) -> Tensor:
        """``[3]`` on the device of the scene, sRGB 0 to 1."""
        return self.model.background.to(self.model.device)


def start_scene(request: StartRequest, needs: Needs) -> SceneStart:
    """The start of a scene from its source, with everything that the rules need.

    Args:
        request: What it is made from.
        needs: Of the rules.

    Raises:
        ValueError: If the capture or the weights do not suit (``CaptureError``, ``WeightsError``).
    """
    start = STARTS[request.options.source](request)
    CONSOLE.log(f"The scene starts with {len(start.gaussians)} Gaussians.")
    if request.options.source == "file" and start.features is not None and needs.select(start).features is None:
        CONSOLE.log(f"No rule of this run takes features of width {start.features.shape[1]}; those of the file rest.")
    if needs.context is not None and start.context is None:
        context = context_of_rule(needs.context, request.options.context, request.datamanager, request.background)
        start = replace(start, context=context)
    if needs.precision:
        if start.precision is None:
            start = _with_heuristic_precision(start, request.model)
        check_precision(start.gaussians, start.precision)
    return start


def start_from_points(request: StartRequest) -> SceneStart:
    """One Gaussian per structure-from-motion point.

    Raises:
        CaptureError: If the capture holds none.
    """
    metadata = request.datamanager.train_dataparser_outputs.metadata
    if not _has_points(request):
        raise CaptureError(
            "The capture holds no structure-from-motion points, and --pipeline.initialization.source is sfm; add "
            "points (`l2o photos` makes them) or start from random ones with source random."
        )
    points = metadata["points3D_xyz"], metadata["points3D_rgb"]
    return _one_gaussian_per_point(request, *points, request.options.num_points)


def start_from_random_points(request: StartRequest) -> SceneStart:
    """Gaussians of random colour in front of the cameras."""
    count = request.options.num_points or NUM_RANDOM_POINTS
    cameras = request.datamanager.train_dataset.cameras
    same_size = (cameras.width == cameras.width[0]) & (cameras.height == cameras.height[0])
    points = random_points(pinhole_cameras(cameras[same_size.flatten()]), count, request.options.seed)
    return _one_gaussian_per_point(request, *points, count)


def start_from_any_points(request: StartRequest) -> SceneStart:
    """Structure-from-motion points if there are any, else random ones."""
    if _has_points(request):
        return start_from_points(request)
    CONSOLE.log(
        "The capture holds no structure-from-motion points, so the scene starts from random ones, which is "
        "slower and worse; `l2o photos` makes points."
    )
    return start_from_random_points(request)


def start_densely(request: StartRequest) -> SceneStart:
    """Flat Gaussians on the surfaces that the photographs agree on.

    Raises:
        CaptureError: If the capture holds no points to start from, or depths cannot be estimated.
    """
    if not _has_points(request):
        raise CaptureError(
            "The capture holds no structure-from-motion points, from which --pipeline.initialization.source dense "
            "estimates depths; add points (`l2o photos` makes them) or start from random ones with source random."
        )
    options, metadata = request.options, request.datamanager.train_dataparser_outputs.metadata
    photographs = request.datamanager.all_train_photographs(request.background)
    # Seconds of a GPU train more Gaussians than a dense start makes.
    seconds = None if request.seconds is None or request.background.is_cuda else request.seconds * get_num_threads()
    dense = DenseOptions(most=options.num_points, seconds=seconds, sh_degree=request.model.config.sh_degree)
    head = DenseHead.from_weights(load_weights(request.weights, "dense"))
    begin = time.perf_counter()
    try:
        gaussians = dense_gaussians(photographs, metadata["points3D_xyz"], metadata["points3D_rgb"], dense, head)
    except ValueError as error:
        raise CaptureError(str(error)) from error
    CONSOLE.log(f"The dense start took {time.perf_counter() - begin:.1f} s.")
    if options.pad:
        gaussians = padded(gaussians, options.num_points)
    return SceneStart(gaussians.to(request.background.device))


class GivenUpError(L2OError, ValueError):
    """A prediction that is not worth its time beside the sparse points; the message says why.

    Args:
        reason: The message.
        source: Where the scene should start instead.
    """

    def __init__(self, reason: str, source: str) -> None:
        super().__init__(reason)
        self.source = source


def start_from_predicted_points(request: StartRequest) -> SceneStart:
    """Sparse points, and places that a network predicts if these are few and the photographs allow it.

    A capture without points starts as by ``auto``.
    """
    points, options = _sparse_points(request), request.options
    if points is None:
        return start_from_any_points(request)
    xyz, rgb = points
    weights = load_weights(request.weights, "resplat")
    # Wrong weights end the run; what may fail afterwards is about the capture.
    config = read_tensors(weights, options.context.behaviour()).config
    try:
        views = len(_chosen(request, config))
        if len(xyz) >= FEW_POINTS * views:
            CONSOLE.log(f"{len(xyz)} sparse points are enough; no places are predicted beside them.")
            return start_from_points(request)
        scene = _initial_scene(request, weights)
    except ValueError as error:
        CONSOLE.log(f"No places are predicted beside the {len(xyz)} sparse points. {error}")
        return start_from_points(request)
    joined = joined_points(xyz, rgb, scene, PLACES * views, options.seed)
    CONSOLE.log(f"{len(joined[0]) - len(xyz)} predicted places join the {len(xyz)} sparse points.")
    return _one_gaussian_per_point(request, *joined, options.num_points)


def start_from_resplat(request: StartRequest) -> SceneStart:
    """What ReSplat's initial model makes of some photographs.

    Raises:
        GivenUpError: If the request is guarded, and its points contradict the prediction, or have guided it.
    """
    weights = load_weights(request.weights, "resplat")
    points = _sparse_points(request) if request.guarded else None
    if points is not None and read_tensors(weights, {}).shape.guide_width:
        # Points cannot vote on depths that were made from them.
        raise GivenUpError("A prediction guided by sparse points is worth most as further points", "predicted")
    scene = _initial_scene(request, weights)
    if points is not None:
        error = depth_error(scene.depth, scene.context, *points)
        if error is not None and error > LARGEST_DEPTH_ERROR:
            raise GivenUpError(
                f"Its depths differ from those of the sparse points by {100 * error:.1f} % in the median, and a start "
                f"worth its time by {100 * LARGEST_DEPTH_ERROR:g} % at most",
                "sfm",
            )
    request.model.adopt_raster(weights.card.raster or {})
    return scene


def start_from_diff3r(request: StartRequest) -> SceneStart:
    """The same, and how strongly each Gaussian is to be held, as a network says that compares it with photographs."""
    weights, head = read_diff3r(load_weights(request.weights, "diff3r"))
    scene = _initial_scene(request, weights)
    request.model.adopt_raster(weights.card.raster or {})
    head = head.to(request.background.device)
    precision = predicted_precision(head, scene, request.model.raster_settings()).detach()
    return replace(scene, precision=precision)


STARTS: dict[str, Callable[[StartRequest], SceneStart]] = {
    "auto": start_from_any_points,
    "sfm": start_from_points,
    "random": start_from_random_points,
    "dense": start_densely,
    "predicted": start_from_predicted_points,
    "resplat": start_from_resplat,
    "diff3r": start_from_diff3r,
    "file": start_from_file,
}


def _has_points(request: StartRequest) -> bool:
    return _sparse_points(request) is not None


def _sparse_points(request: StartRequest) -> SparsePoints | None:
    metadata = request.datamanager.train_dataparser_outputs.metadata
    xyz = metadata.get("points3D_xyz")
    return (xyz, metadata["points3D_rgb"]) if xyz is not None and len(xyz) else None


def _one_gaussian_per_point(request: StartRequest, xyz: Tensor, rgb: Tensor, count: int | None) -> SceneStart:
    options, device = request.options, request.background.device
    points = PointInitOptions(
        num_points=count, pad=options.pad, sh_degree=request.model.config.sh_degree, seed=options.seed
    )
    return SceneStart(gaussians_from_points(xyz.to(device), rgb.to(device), points))


def _with_heuristic_precision(start: SceneStart, model: L2OModel) -> SceneStart:
    """The start with a precision measured on its context views; prints so."""
    begin = time.perf_counter()
    precision = heuristic_precision(start.gaussians, ContextViews(start.context, model.raster_settings()))
    CONSOLE.log(
        "Heuristic precision: no network predicts one for this start, so it was measured on the context views, in "
        f"{time.perf_counter() - begin:.1f} s."
    )
    return replace(start, precision=precision)


def _initial_scene(request: StartRequest, weights: Weights) -> InitialScene:
    """What the initial model of some weights makes of context views that are chosen here."""
    options, datamanager, background = request.options.context, request.datamanager, request.background
    outputs = datamanager.train_dataparser_outputs
    scale = float(outputs.dataparser_scale)
    behaviour = options.behaviour()
    config = read_tensors(weights, behaviour).config
    indices = _chosen(request, config)
    views = datamanager.train_views(indices, background)
    near_far = config.near * scale, config.far * scale
    if (options.depth_range or config.depth_range) == "points":
        near_far = _range_of_points(datamanager, views.cameras)
    near, far = (torch.as_tensor(limits) for limits in near_far)
    near, far = float(near.min()), float(far.max())
    names = [outputs.image_filenames[i].name for i in indices]
    _check_overlap(views.cameras, names, near, far)
    initializer = ReSplatInitializer.from_weights(weights, **behaviour).to(background.device)
    CONSOLE.log(
        f"ReSplat starts from {len(indices)} of {len(datamanager.train_dataset)} training views, and its weights were "
        f"trained with {config.context_views}: {', '.join(names)}. Depths between {near:.3g} and "
        f"{far:.3g} scene units are considered. Weights: {weights.card.announcement}."
    )
    begin = time.perf_counter()
    scene = initializer(views, scale, near_far, background, _sparse_points(request))
    size = scene.context.cameras
    CONSOLE.log(
        f"The initial model took {time.perf_counter() - begin:.1f} s for {len(indices)} views of {size.width} x "
        f"{size.height} pixels."
    )
    cells = len(indices) * scene.grid[0] * scene.grid[1]
    if len(scene.gaussians) < cells:
        CONSOLE.log(f"Masks: {cells - len(scene.gaussians)} of {cells} predicted Gaussians are left out.")
    return replace(scene, features=scene.features.float())


def _chosen(request: StartRequest, config: ReSplatConfig) -> list[int]:
    """Indices of the training views that a network sees."""
    options, datamanager = request.options.context, request.datamanager
    return choose_for_networks(datamanager, options, config.context_views, 2, config.views_at_once)


def _range_of_points(datamanager: L2ODataManager, cameras: PinholeCameras) -> DepthRange:
    """Nearest and farthest depth of the capture's sparse points in each view, scene units."""
    points = datamanager.train_dataparser_outputs.metadata.get("points3D_xyz")
    if points is None:
        raise CaptureError(
            "The capture holds no structure-from-motion points, from which the range of depths comes; add points "
            f"(`l2o photos` makes them), or use weights with a range of their own and {OPTION}.depth-range weights."
        )
    return depth_range(points.to(cameras.Ks.device), cameras)


def _check_overlap(cameras: PinholeCameras, names: list[str], near: float, far: float) -> None:
    """Refuse a context most of which cannot be compared, and name views that cannot."""
    alone = [names[view] for view in lonely_views(cameras, near, far)]
    if 2 * len(alone) > len(names):
        raise CaptureError(
            f"{len(alone)} of {len(names)} context views look away from all others ({alone[0]} is the first), and "
            "ReSplat finds depths where views overlap; use photographs of one place from several sides, or check the "
            "poses."
        )
    if alone:
        CONSOLE.log(
            f"[bold yellow]No other context view sees what {', '.join(alone)} shows, so depths there are guesses."
        )
