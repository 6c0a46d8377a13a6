"""Make the small fixtures in ``data/``: ``python -m tests.golden.make_fixtures``.

They hold random inputs and what this package computed from them, with narrow networks whose weights come from a
formula. So the replays run, and notice when a number changes, where the large fixtures of the original code are absent;
only those say that a number is right. Make them anew only in a commit that mends a number, with code that replays the
large ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.golden.check_learn2splat import Replay, replay_parts
from tests.golden.check_resplat import context_views
from tests.golden.hash_weights import hash_weights
from tests.golden.resplat_models import replay_update_step, shape_of
from tests.golden.resplat_report import Report
from tests.resplat_networks import context, rule

DATA = Path(__file__).with_name("data")
LEARN2SPLAT = DATA / "learn2splat_tiny.safetensors"
RESPLAT_UPDATE = DATA / "resplat_update_tiny.pt"

N, COLUMNS, LATENT, FEATURES, STEPS = 14, 23, 8, 6, 3
"""Gaussians of SH degree 1, widths, and steps of the Learn2Splat fixture."""


class RecordingReplay(Replay):
    """Takes what is found for what is expected."""

    def compare(self, name: str, found: Tensor, atol: float | None = None, scale: Tensor | None = None) -> None:
        self.tensors[name] = found.detach().clone().contiguous()

    def compare_sets(self, name: str, found: Tensor) -> None:
        self.tensors[name] = found.clone()


def learn2splat_shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of a narrow update network of two blocks."""
    linear = {
        "point_transformer.0.linear": (LATENT, 2 * COLUMNS + LATENT),
        "state_scale_head.0": (5, 2 * COLUMNS + LATENT),
        "state_scale_head.2": (1, 5),
        "delta_head.0": (7, LATENT),
        "delta_head.2": (COLUMNS + 1, 7),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for block in ("point_transformer.1.blocks.0", "point_transformer.1.blocks.1"):
        linear |= {
            f"{block}.attn.proj": (LATENT, 4),
            f"{block}.mlp.fc1": (12, LATENT),
            f"{block}.mlp.fc2": (LATENT, 12),
        }
        shapes[f"{block}.attn.qkv.weight"] = (12, LATENT)
        shapes |= {f"{block}.norm{i}.{part}": (LATENT,) for i in (1, 2) for part in ("weight", "bias")}
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    return shapes | {"state_proj.weight": (LATENT, FEATURES, 1, 1), "state_proj.bias": (LATENT,)}


def learn2splat_fixture() -> dict[str, Tensor]:
    """Every part that the replay knows."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    tensors = {f"state_dict/{name}": value for name, value in hash_weights(learn2splat_shapes()).items()}
    tensors |= {
        "init/means": normal(N, 3),
        "init/scales": uniform(N, 3) * 0.2 + 0.02,
        "init/opacities": uniform(N) * 0.9 + 0.05,
        "init/quats": normal(N, 4),
        "init/sh": normal(N, 3, 4) * 0.2,
        "init/state": normal(N, LATENT),
        "step0/knn_idx": torch.zeros(1, 4, dtype=torch.int64),  # Says how many neighbours there are.
        "feat/features": normal(2, FEATURES, 2, 3),
        "sfm/xyz": normal(12, 3),
        "sfm/rgb": uniform(12, 3),
        "sfm/sh": torch.zeros(12, 3, 4),
        "loss/gt": uniform(1, 2, 3, 13, 14),
        "loss/pred": uniform(1, 2, 3, 13, 14),
        "meta_loss/deltas": normal(1, 10, COLUMNS),
        "meta_loss/gradients": normal(1, 10, COLUMNS),
        "meta_loss/norm_gradients": normal(1, 10, COLUMNS),
        "meta_loss/renders": uniform(4, 1, 3, 3, 4, 4),
        "meta_loss/gt": uniform(1, 3, 3, 4, 4),
    }
    for t in range(STEPS):
        unseen = torch.arange(N)[:, None] % 5 == t
        tensors[f"step{t}/grad_raw"] = (normal(N, COLUMNS) * 10 ** (-4 * uniform(N, 1))).masked_fill(unseen, 0)
        tensors[f"meta/R{t}"] = normal(N, COLUMNS)
    # Names that start as one of these are asked for, whatever they hold.
    placeholders = ("fast/step0/delta", f"shcap0/step{STEPS - 1}/state_after")
    recorded = RecordingReplay(tensors | {name: torch.zeros(0) for name in placeholders})
    replay_parts(recorded)
    assert not recorded.absent, recorded.absent
    return recorded.tensors


class RecordingReport(Report):
    """Keeps what is found."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Tensor] = {}

    def close(self, name: str, found: Tensor, *_, **__) -> None:
        self.found[name] = found.detach().clone()

    def same_rows(self, name: str, found: Tensor, expected: Tensor) -> None:
        self.found[name] = found.to(torch.int32)


def resplat_options() -> dict[str, Any]:
    """Options of the original code that say how wide the networks are and how the update works."""
    return {
        "gaussian_regressor_channels": 8,
        "lowest_feature_resolution": 8,
        "latent_downsample": 4,
        "init_gaussian_multiple": 1,
        "num_depth_candidates": 8,
        "depth_unet_channels": 8,
        "num_transformer_layers": 1,
        "monodepth_vit_type": "vits",
        "attn_proj_channels": 4,
        "num_blocks": 1,
        "state_channels": 8,
        "update_attn_proj_channels": 4,
        "num_basic_refine_blocks": 1,
        "render_error_mv_attn_blocks": 1,
        "gaussian_adapter.gaussian_scale_max": 1.0,
        "gaussian_adapter.clamp_min_scale": 1e-6,
        "gaussian_adapter.exp_scale_bias": 4.0,
        "depth_pred_half_res": False,
        "local_mv_match": 1,
        "knn_samples": 4,
        "refine_knn_samples": 4,
        "init_use_local_knn": False,
        "refine_use_local_knn": False,
        "no_crop_image": False,
    }


def resplat_fixture(steps: int = 2, views: int = 2, side: int = 16) -> dict[str, Any]:
    """The update alone, of one scene."""
    generator = torch.Generator().manual_seed(0)
    options, grid = resplat_options(), side // 4
    n, width = views * grid**2, options["state_channels"]
    network = rule(shape_of(options, has_update=True)).network
    photographs = context(views, side, side)
    intrinsics = photographs.cameras.Ks / photographs.cameras.Ks.new_tensor([side, side, 1])[:, None]
    images = photographs.images.permute(0, 3, 1, 2)
    start = {
        "means": torch.randn(1, n, 3, generator=generator) * 0.5 + torch.tensor([0.0, 0.0, 3.0]),
        "scales": torch.rand(1, n, 3, generator=generator) * 0.1 + 0.002,
        "rotations_unnorm": torch.randn(1, n, 4, generator=generator),
        "opacities": torch.rand(1, n, generator=generator) * 0.98 + 0.01,
        "harmonics": torch.randn(1, n, 3, 16, generator=generator) * 0.2,
    }
    fields = {"means": 3, "scales": 3, "rotations": 4, "rotations_unnorm": 4}
    gaussians = {name: torch.zeros(1, n, size) for name, size in fields.items()}
    gaussians |= {"covariances": torch.zeros(1, n, 3, 3), "harmonics": torch.zeros(1, n, 3, 16)}
    gaussians["opacities"] = torch.zeros(1, n)
    rows = {"knn_idx": options["refine_knn_samples"], "linear_out": width, "state_after": width, "delta_raw": 59}
    noise = torch.randn(steps, 1, *images.shape, generator=generator)
    fixture = {
        "config": options,
        "shapes": {f"encoder.{name}": list(tensor.shape) for name, tensor in network.state_dict().items()},
        "context": {
            "extrinsics": torch.linalg.inv(photographs.cameras.viewmats)[None],
            "intrinsics": intrinsics[None],
            "near": torch.full((1, views), 0.5),
            "far": torch.full((1, views), 20.0),
            "image": images[None].clone(),
        },
        "init_gaussians": start,
        "condition_features": torch.randn(
            views, options["gaussian_regressor_channels"], grid, grid, generator=generator
        ),
        "rendered": images + 0.2 * noise,
        # Of the right shape for now.
        "gaussians": [dict(gaussians) for _ in range(steps)],
        "delta_means": [torch.zeros(1, n, 3) for _ in range(steps)],
        "delta_scales": [torch.zeros(1, n, 3) for _ in range(steps)],
        "final_state": torch.zeros(n, width),
    } | {name: [torch.zeros(n, size) for _ in range(steps)] for name, size in rows.items()}
    report = RecordingReport()
    with torch.no_grad():
        replay_update_step(fixture, report, context_views)
    for name, found in report.found.items():
        if name == "final_state":
            fixture[name] = found
            continue
        _, t, field = name.split()
        if field in gaussians:
            fixture["gaussians"][int(t)][field] = found[None]
        else:
            fixture[field][int(t)] = found[None] if field in ("delta_means", "delta_scales") else found
    return fixture


if __name__ == "__main__":
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    save_file(learn2splat_fixture(), LEARN2SPLAT)
    torch.save(resplat_fixture(), RESPLAT_UPDATE)
    for path in (LEARN2SPLAT, RESPLAT_UPDATE):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
