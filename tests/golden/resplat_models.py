"""Replays of the ReSplat update and of whole models through the package's own initializer and rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.context_views import fit
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import VARIANTS, ReSplatConfig, ReSplatShape, UpdateShape
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.nets.resplat.gaussians import OPACITY_EPS, CameraGaussians
from l2o_splat.nets.resplat.points import maps_from_rows, rows_from_maps
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import Feedback, RenderedViews
from l2o_splat.rendering import set_num_threads
from l2o_splat.rotations import quaternions_of
from l2o_splat.scene import SceneStart
from l2o_splat.views import Views
from l2o_splat.weights.format import Weights, WeightsCard
from tests.golden.hash_weights import hash_weights
from tests.golden.resplat_report import Report, compare_gaussians

ONLY_VALUES = {
    "num_scales": 1,
    "sample_log_depth": True,
    "bilinear_upsample_depth": False,
    "no_upsample_depth": False,
    "use_amp": False,
    "pt_head_amp": False,
    "pt_update_amp": False,
    "gaussian_adapter.sh_degree": 3,
    "gaussian_adapter.exp_scale": False,
    "gaussian_adapter.softplus_scale": True,
    "gaussian_adapter.scale_detach_depth": False,
    "gaussian_adapter.no_rotate_sh": True,
    "gaussian_adapter.no_sh_mask": True,
    "gaussian_adapter.init_rotation_identity": False,
} | {
    f"{part}_local_knn_{name}": value
    for part in ("init", "refine")
    for name, value in (("spatial_radius", 3), ("num_neighbor_views", 32), ("cross_view_radius", 3))
}
"""Options of the original with one value in all released models, which is the only one built."""

INTERMEDIATE = 1e-3
"""Tolerance of quantities inside a whole model, relative to their mean magnitude; that of depth is the same."""

MakeViews = Callable[[Tensor, Tensor, Tensor], Views]


def shape_of(original: dict[str, Any], has_update: bool) -> ReSplatShape:
    """Widths from the original's options."""
    update = UpdateShape(
        state_width=original["state_channels"],
        attention_width=original["update_attn_proj_channels"],
        num_blocks=original["num_basic_refine_blocks"],
        num_error_blocks=original["render_error_mv_attn_blocks"],
    )
    vit = original["monodepth_vit_type"]
    return ReSplatShape(
        vit=vit if vit in VARIANTS else "vits",  # Fixtures of the update alone may name any.
        width=original["gaussian_regressor_channels"],
        feature_downsample=original["lowest_feature_resolution"],
        latent_downsample=original["latent_downsample"],
        gaussians_per_cell=original["init_gaussian_multiple"],
        num_depths=original["num_depth_candidates"],
        unet_width=original["depth_unet_channels"],
        num_transformer_layers=original["num_transformer_layers"],
        attention_width=original["attn_proj_channels"],
        num_blocks=original["num_blocks"],
        update=update if has_update else None,
    )


def behaviour_of(original: dict[str, Any], near: Tensor, far: Tensor) -> dict[str, Any]:
    """Fields of ``ReSplatConfig`` from the original's options."""
    return {
        "near": float(near.flatten()[0]),
        "far": float(far.flatten()[0]),
        "scale_max": original["gaussian_adapter.gaussian_scale_max"],
        "scale_min": original["gaussian_adapter.clamp_min_scale"],
        "scale_bias": original["gaussian_adapter.exp_scale_bias"],
        "half_resolution_depth": original["depth_pred_half_res"],
        "reference_views": original["local_mv_match"],
        "neighbours": original["knn_samples"],
        "update_neighbours": original["refine_knn_samples"],
        "local_search": original["init_use_local_knn"],
        "update_local_search": original["refine_use_local_knn"],
        "world": "raw",
        "longer_side": 10**6,
        "fit": "enlarge" if original["no_crop_image"] else "crop",
        "precision": "float32",
    }


def check_options(original: dict[str, Any], report: Report) -> None:
    """Options with another value than the one that is built fail by name."""
    for name, value in ONLY_VALUES.items():
        if original.get(name, value) != value:
            report.equal(f"option {name}", original[name], value)
    if original["init_gaussian_multiple"] > 1 and not original.get("refine_same_num_points", True):
        report.equal("option refine_same_num_points", False, True)


@contextmanager
def watch(**modules: nn.Module) -> Iterator[dict[str, list[tuple[tuple[Any, ...], Any]]]]:
    """Collects inputs and output of every call of the modules."""
    seen: dict[str, list[tuple[tuple[Any, ...], Any]]] = {name: [] for name in modules}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: seen[name].append((inputs, output)))
        for name, module in modules.items()
    ]
    # On one thread, portions of rows come in order.
    set_num_threads(1)
    try:
        yield seen
    finally:
        set_num_threads(None)
        for hook in hooks:
            hook.remove()


def outputs(calls: list[tuple[tuple[Any, ...], Any]]) -> Tensor:
    """What a module returned, which treats rows in portions."""
    return torch.cat([output for _, output in calls])


def source_quats(extrinsics: Tensor, n: int) -> Tensor:
    """World-from-camera rotation of the source view of each of n Gaussians."""
    return quaternions_of(extrinsics[:, :3, :3]).repeat_interleave(n // len(extrinsics), dim=0)


def read_gaussians(fields: dict[str, Tensor], scene: int, view_quats: Tensor) -> Gaussians:
    """A fixture's Gaussians."""
    camera = CameraGaussians(
        means=fields["means"][scene],
        scales=fields["scales"][scene],
        rotations=fields["rotations_unnorm"][scene],
        opacity_logits=fields["opacities"][scene][:, None].logit(OPACITY_EPS),
        harmonics=fields["harmonics"][scene],
    )
    return camera.to_gaussians(view_quats)


def own_rows(rows: Tensor, scene: int, scenes: int) -> Tensor:
    """Rows of one scene, of all scenes' in a row."""
    return rows.chunk(scenes)[scene]


def own_neighbours(rows: Tensor, scene: int, scenes: int) -> Tensor:
    """The same for indices of rows."""
    return own_rows(rows, scene, scenes).long() - scene * (len(rows) // scenes)


def replay_updates(
    report: Report,
    rule: ReSplatRule,
    views: Views,
    extrinsics: Tensor,
    rendered: Tensor,
    start: dict[str, Tensor],
    condition: Tensor,
    expected: dict[str, Any],
    scene: int,
) -> None:
    """All updates of one scene from the fixture's own start.

    Args:
        rendered: [t b v 3 h w]
        condition: Features of the initial model, maps of this scene.
        expected: Results, some of them per iteration.
    """
    scenes, n = rendered.shape[1], start["means"].shape[1]
    view_quats = source_quats(extrinsics, n)
    gaussians = read_gaussians(start, scene, view_quats)
    side = rule.network.shape.gaussian_downsample
    fine = (views.cameras.height // side, views.cameras.width // side)
    state = rule.init_state(SceneStart(gaussians, rows_from_maps(resize(condition, fine))))
    network = rule.network
    project, transformer = network.update_module
    modules = {"linear": project, "transformer": transformer, "head": network.update_head}
    if len(network.update_error_attn) == 1:
        modules["errors"] = network.update_error_attn[0]
    for t, fields in enumerate(expected["gaussians"]):
        images = RenderedViews(views, rendered[t][scene].permute(0, 2, 3, 1))
        with watch(**modules) as seen:
            delta, state = rule(gaussians, Feedback(None, t, 1.0, images), state)
        gaussians = gaussians.zip_map(torch.add, delta)
        step, raw = f"step {t}", outputs(seen["head"])
        neighbours = seen["transformer"][0][0][1]
        report.same_rows(f"{step} knn_idx", neighbours, own_neighbours(expected["knn_idx"][t], scene, scenes))
        inside = {"linear_out": outputs(seen["linear"]), "state_after": state["latent"]}
        if "errors" in seen:
            (error_in,), error_out = seen["errors"][0]
            inside |= {"error_in": rows_from_maps(error_in), "error_out": rows_from_maps(error_out)}
        for name, found in inside.items():
            if t < len(expected.get(name, [])):
                wanted = own_rows(expected[name][t].flatten(0, -2), scene, scenes)
                report.close(f"{step} {name}", found, wanted, of_magnitude=True)
        report.close(f"{step} delta_raw", raw, own_rows(expected["delta_raw"][t], scene, scenes), of_magnitude=True)
        report.close(f"{step} delta_means", raw[:, :3], expected["delta_means"][t][scene], of_magnitude=True)
        report.close(f"{step} delta_scales", raw[:, 3:6], expected["delta_scales"][t][scene], of_magnitude=True)
        compare_gaussians(report, step, gaussians, view_quats, fields, scene)
    latent = state["latent"]
    if "final_state" in expected:
        report.close("final_state", latent, own_rows(expected["final_state"], scene, scenes), of_magnitude=True)
    if "final_state_rows_every16" in expected:
        wanted = own_rows(expected["final_state_rows_every16"], scene, scenes)
        report.close("final_state_rows_every16", latent[::16], wanted, of_magnitude=True)


def replay_update_step(fixture: dict[str, Any], report: Report, make_views: MakeViews) -> None:
    """The update alone; the weights are in the fixture, or come from the formula for the shapes that it holds."""
    if "state_dict" not in fixture:
        fixture = fixture | {"state_dict": hash_weights(fixture["shapes"])}
    original, context = fixture["config"], fixture["context"]
    check_options(original, report)
    network = ReSplatUpdateNetwork(shape_of(original, has_update=True))
    network.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in fixture["state_dict"].items()})
    rule = ReSplatRule(network, ReSplatConfig(**behaviour_of(original, context["near"], context["far"])))
    scenes = len(context["image"])
    for scene in range(scenes):
        views = make_views(*(context[name][scene] for name in ("image", "extrinsics", "intrinsics")))
        condition = own_rows(fixture["condition_features"], scene, scenes)
        extrinsics, start = context["extrinsics"][scene], fixture["init_gaussians"]
        replay_updates(report, rule, views, extrinsics, fixture["rendered"], start, condition, fixture, scene)


def replay_model(fixture: dict[str, Any], report: Report, make_views: MakeViews) -> None:
    """The initial model, and the update from the fixture's own start."""
    original = fixture["config"]
    check_options(original, report)
    tensors = hash_weights(fixture["shapes"])
    sums = [torch.stack([tensors[name].double().sum(), tensors[name].double().abs().sum()]) for name in tensors]
    expected = [fixture["weight_checksums"][name] for name in tensors]
    report.close("weight_checksums", torch.stack(sums), torch.stack(expected), of_magnitude=True, tolerance=1e-12)
    has_update = any(name.startswith("encoder.update_") for name in tensors)
    for index, case in enumerate(fixture["cases"]):
        prefix = f"case {index} " if len(fixture["cases"]) > 1 else ""
        inner = Report()
        context = case["context"]
        behaviour = behaviour_of(original, context["near"], context["far"])
        weights = Weights(tensors, WeightsCard("resplat", {}, behaviour=behaviour))
        initializer = ReSplatInitializer.from_weights(weights)
        inner.equal("shape", initializer.model.shape, shape_of(original, has_update))
        noise = {name: float(value) for name, value in case.get("noise1e-6_max_abs_change", {}).items()}
        for scene in range(len(context["image"])):
            replay_initial(inner, initializer, case, scene, make_views, noise)
            if "update" in case:
                replay_case_update(inner, ReSplatRule.from_weights(weights), case, scene, make_views)
        for name, line in inner.lines.items():
            report.add(prefix + name, line.error, line.tolerance)


def replay_initial(
    report: Report,
    initializer: ReSplatInitializer,
    case: dict[str, Any],
    scene: int,
    make_views: MakeViews,
    noise: dict[str, float],
) -> None:
    """The initial model on one scene."""
    context, expected = case["context"], case["init"]
    scenes = len(context["image"])
    views = make_views(*(context[name][scene] for name in ("image", "extrinsics", "intrinsics")))
    model = initializer.model
    parts = {"depth": model.depth_predictor, "transformer": model.depth_predictor.transformer, "proj": model.proj}
    with watch(**parts, pt=model.pt, head=model.gaussian_head) as seen:
        found = initializer(views)
    (head_in,), head_out = seen["head"][0]
    neighbours, pt_out = seen["pt"][0][0][1], seen["pt"][0][1]
    depth = seen["depth"][0][1]
    grid = tuple(side // model.shape.latent_downsample for side in found.context.images.shape[1:3])
    cameras = ContextCameras.from_pinhole(found.context.cameras, model.config.near, model.config.far)

    report.same_rows("knn_idx", neighbours, own_neighbours(expected["knn_idx"], scene, scenes))
    for name in ("depth_pred", "depths"):
        wanted = expected[name][scene]
        whole = depth.depth[:, 0] if depth.depth.shape[2:] == wanted.shape[1:] else found.depth
        report.relative(name, whole, wanted, INTERMEDIATE)
    multiview, probability = seen["transformer"][0][1], depth.probability
    if multiview.shape[2:] != expected["features_mv"].shape[2:]:  # Enlarged after depths at half resolution.
        multiview, probability = (resize(maps, expected["features_mv"].shape[2:]) for maps in (multiview, probability))
    inside = {
        "features_mv": (multiview, None),
        "match_prob_max": (probability.amax(dim=1, keepdim=True), None),
        "proj_out": (seen["proj"][0][1], None),
        "points": (cameras.unproject(resize(depth.depth, grid)[:, 0]).flatten(0, 2), noise.get("means")),
        "pt_out": (pt_out, None),
        "head_in": (head_in, None),
        "head_out": (head_out, None),
        "condition_features": (maps_from_rows(head_in, grid), None),
    }
    for name, (tensor, change) in inside.items():
        wanted = own_rows(expected[name], scene, scenes)
        tolerance = INTERMEDIATE * float(wanted.abs().mean()) + 3 * (change or 0)
        report.close(name, tensor, wanted, tolerance)
    fields = expected["gaussians"]
    tolerances = {name: 3 * noise.get(name, 0.0) + 1e-4 * float(tensor.abs().mean()) for name, tensor in fields.items()}
    view_quats = source_quats(context["extrinsics"][scene], len(found.gaussians))
    compare_gaussians(report, "init", found.gaussians, view_quats, fields, scene, tolerances)


def replay_case_update(
    report: Report, rule: ReSplatRule, case: dict[str, Any], scene: int, make_views: MakeViews
) -> None:
    """The update of a whole model on one scene."""
    context, start = case["context"], case["init"]["gaussians"]
    views = make_views(*(context[name][scene] for name in ("image", "extrinsics", "intrinsics")))
    views = fit(views, rule.network.shape.size_multiple, rule.config.longer_side, rule.config.fit)
    condition = own_rows(case["init"]["condition_features"], scene, len(context["image"]))
    extrinsics = context["extrinsics"][scene]
    replay_updates(report, rule, views, extrinsics, case["rendered"], start, condition, case["update"], scene)
