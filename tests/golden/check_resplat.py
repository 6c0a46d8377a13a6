"""Replay a ReSplat fixture and compare every quantity: ``python check_resplat.py FIXTURE.pt``.

A fixture holds inputs and what the original code computed from them: of single parts, of the update, or of a whole
model, whose weights then come from a formula. Prints one line per quantity with its largest error; exits 1 if one is
missed, or nothing could be compared. Parts that the fixture lacks are not compared.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if not __package__:  # Run as a program.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from l2o_splat.frame import Frame
from l2o_splat.initializers.context_views import choose_context, crop_to_multiple, selection_order
from l2o_splat.initializers.depth_smoothness import depth_smoothness
from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.nets.point_transformer import Block, NeighbourAttention, PointTransformer
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import ReSplatConfig
from l2o_splat.nets.resplat.encoder import MultiViewTransformer, add_positions, window_splits
from l2o_splat.nets.resplat.gaussians import decode_gaussians
from l2o_splat.nets.resplat.points import (
    GlobalAttention,
    PointNetwork,
    local_neighbours,
    maps_from_rows,
    rows_from_maps,
)
from l2o_splat.rotations import quaternions_of
from l2o_splat.views import PinholeCameras, Views
from tests.golden.resplat_models import replay_model, replay_update_step
from tests.golden.resplat_report import Report, compare_gaussians, covariances


def replay_misc(fixture: dict[str, Any], report: Report) -> None:
    """View selection, alignment, cropping, covariances, and the smoothness loss."""
    centres = fixture["fps_centers"]
    for name in (name for name in fixture if name.startswith("fps_order")):
        order = fixture[name].tolist()
        report.equal(name, selection_order(centres, len(order)), order)
        report.equal(f"{name} sorted", choose_context(centres, len(order)), sorted(order))
    for name in (name for name in fixture if name.startswith("pose_aligned_to_index")):
        view, poses = int(name.removeprefix("pose_aligned_to_index")), fixture["pose_in"]
        ones = torch.ones(len(poses))
        aligned = ContextCameras(poses, torch.eye(3).expand(len(poses), 3, 3), ones, ones).relative_to(view)
        report.close(name, aligned.poses, fixture[name])
        cameras = PinholeCameras(torch.linalg.inv(poses), torch.eye(3).expand(len(poses), 3, 3), 1, 1)
        moved = Frame.of_view(cameras, view).cameras_to_local(cameras)
        report.close(f"{name}, by frame", torch.linalg.inv(moved.viewmats), fixture[name])
    images, intrinsics = fixture["patch_in"], fixture["patch_K_in"]
    for scene in range(len(images)):
        views = context_views(images[scene], torch.eye(4).expand(images.shape[1], 4, 4), intrinsics[scene])
        cropped = crop_to_multiple(views, multiple_of(images, fixture["patch_out"]), move_principal_point=False)
        report.close("patch_out", cropped.images.permute(0, 3, 1, 2), fixture["patch_out"][scene])
        size = cropped.cameras.Ks.new_tensor([cropped.cameras.width, cropped.cameras.height, 1])
        report.close("patch_K_out", cropped.cameras.Ks / size[:, None], fixture["patch_K_out"][scene])
    quats, scales = fixture["quat_xyzw"][:, [3, 0, 1, 2]], fixture["scales"]
    report.close("rotmat", covariances(quats, torch.ones(3))[1], fixture["rotmat"])
    report.close("cov", covariances(quats, scales)[0], fixture["cov"])
    loss = depth_smoothness(fixture["smooth_depth"], fixture["smooth_image"])
    report.close("smooth_loss", loss, fixture["smooth_loss"])


def multiple_of(images: Tensor, cropped: Tensor) -> int:
    """The multiple, of those that networks need, to which images were cropped."""
    sides = list(zip(images.shape[-2:], cropped.shape[-2:], strict=True))
    return 64 if all(before // 64 * 64 == after for before, after in sides) else 16


def context_views(images: Tensor, poses: Tensor, intrinsics: Tensor) -> Views:
    """Views from images [v 3 h w], camera-to-world matrices and intrinsics in units of the image size."""
    height, width = images.shape[2:]
    viewmats = torch.linalg.inv(poses.double()).to(poses.dtype)
    Ks = intrinsics * intrinsics.new_tensor([width, height, 1])[:, None]
    return Views(PinholeCameras(viewmats, Ks, width, height), images.permute(0, 2, 3, 1))


def replay_knn_blocks(fixture: dict[str, Any], report: Report) -> None:
    """Neighbour search and the blocks of the point networks."""
    config, points, x = fixture["config"], fixture["points"], fixture["features"]
    width, k, grid = config["channels"], config["knn_samples"], (config["h"], config["w"])
    ends = fixture["offset"].tolist()
    scenes = list(zip([0, *ends], ends, strict=False))
    neighbours = torch.cat([nearest_neighbours(points[start:end], k) + start for start, end in scenes])
    report.same_rows("knn_idx", neighbours, fixture["knn_idx"])
    distance = (points[neighbours] - points[:, None]).norm(dim=2)
    report.close("knn_dist", distance.sort(dim=1).values, fixture["knn_dist"].sort(dim=1).values)

    def loaded(module: torch.nn.Module, name: str) -> torch.nn.Module:
        module.load_state_dict(fixture[f"{name}_state"])
        return module

    narrow, rounds = config["attn_proj_channels"], config["num_blocks"]
    for name, attention_width in (("attn", narrow), ("attn_noproj", width)):
        attention = loaded(NeighbourAttention(width, attention_width), name)
        projected = attention.qkv(x)
        report.close(f"{name}_out", attention.gather(projected, projected, neighbours), fixture[f"{name}_out"])
    report.close("block_out", loaded(Block(width, narrow, 4 * width), "block")(x, neighbours), fixture["block_out"])
    everywhere = loaded(GlobalAttention(width), "mvattn")
    found = [rows_from_maps(everywhere(maps_from_rows(x[start:end], grid))) for start, end in scenes]
    report.close("mvattn_out", torch.stack(found), fixture["mvattn_out"])
    network = loaded(PointNetwork(width, narrow, rounds), "pt_init")
    found = [network(x[start:end], neighbours[start:end] - start, grid) for start, end in scenes]
    report.close("pt_init_out", torch.cat(found), fixture["pt_init_out"], of_magnitude=True)
    network = loaded(PointTransformer(width, narrow, 4 * width, rounds), "pt_update")
    report.close("pt_update_out", network(x, neighbours), fixture["pt_update_out"], of_magnitude=True)

    local = fixture.get("local")
    if local is not None:
        points, ones = local["points"], torch.ones(len(local["extrinsics"]))
        cameras = ContextCameras(local["extrinsics"], local["intrinsics"], ones, ones)
        radii = local["spatial_radius"], local["cross_view_radius"], local["num_neighbor_views"]
        found = local_neighbours(points, cameras, tuple(local["depth"].shape[1:]), local["idx"].shape[1], *radii)
        report.same_rows("local idx", found, local["idx"])
        distance = (points[found] - points[:, None]).norm(dim=2)
        report.close("local dist", distance.sort(dim=1).values, local["dist"].sort(dim=1).values)


def replay_mv_transformer(fixture: dict[str, Any], report: Report) -> None:
    """The multi-view transformer, and which views attend to which."""
    config = fixture["config"]
    network = MultiViewTransformer(config["d_model"], config["num_layers"])
    network.load_state_dict(fixture["state_dict"])
    for index, case in enumerate(fixture["cases"]):
        report.equal(f"case {index} window_splits", window_splits(case["out"].shape[-1]), case["window_splits"])
        for scene in range(len(case["features"])):
            centres, references = case["camera_centers"][scene], case["reference_views"][scene]
            poses = torch.eye(4).repeat(len(centres), 1, 1)
            poses[:, :3, 3] = centres
            ones = torch.ones(len(centres))
            nearest = ContextCameras(poses, poses[:, :3, :3], ones, ones).nearest_views(references.shape[1])
            report.same_rows(f"case {index} reference_views", nearest, references)
            positioned = add_positions(case["features"][scene])
            report.close(f"case {index} with_position", positioned, case["with_position"][scene])
            found = network(positioned, nearest)
            report.close(f"case {index} out", found, case["out"][scene], of_magnitude=True)


def replay_gaussian_head(fixture: dict[str, Any], report: Report) -> None:
    """The head, and Gaussians from its outputs."""
    for name, case in fixture.items():
        original, state = case["config"], case["gaussian_head_state"]
        (hidden, width), (outputs, _) = state["0.weight"].shape, state["2.weight"].shape
        head = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, outputs))
        head.load_state_dict(state)
        head_out = head(case["head_in"])
        report.close(f"{name} head_out", head_out, case["head_out"], of_magnitude=True)
        config = ReSplatConfig(scale_max=original["gaussian_scale_max"])
        images, depth = case["image"], case["depth_full"]
        grid = tuple(side // original["latent_downsample"] for side in images.shape[3:])
        ones = torch.ones(images.shape[1])
        for scene, rows in enumerate(head_out.chunk(len(images))):
            poses = case["extrinsics"][scene]
            cameras = ContextCameras(poses, case["intrinsics"][scene], ones, ones)
            found = decode_gaussians(rows, depth[scene][:, None], images[scene], grid, cameras, config)
            view_quats = quaternions_of(poses[:, :3, :3]).repeat_interleave(len(found.means) // len(poses), dim=0)
            compare_gaussians(report, name, found.to_gaussians(view_quats), view_quats, case["gaussians"], scene)


def replay(path: Path) -> Report:
    """All parts that the fixture has."""
    fixture, report = torch.load(path, weights_only=True), Report()
    with torch.no_grad():
        if "weight_checksums" in fixture:
            replay_model(fixture, report, context_views)
        elif "init_gaussians" in fixture:
            replay_update_step(fixture, report, context_views)
        elif "fps_centers" in fixture:
            replay_misc(fixture, report)
        elif "knn_idx" in fixture:
            replay_knn_blocks(fixture, report)
        elif "cases" in fixture:
            replay_mv_transformer(fixture, report)
        elif all(isinstance(case, dict) and "gaussian_head_state" in case for case in fixture.values()):
            replay_gaussian_head(fixture, report)
        else:
            sys.exit(f"{path} holds {sorted(fixture)[:5]}..., which is no ReSplat fixture.")
    return report


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("One fixture is needed: python check_resplat.py FIXTURE.pt")
    sys.exit(replay(Path(sys.argv[1])).print())
