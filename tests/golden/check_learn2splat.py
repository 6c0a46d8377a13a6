"""Replay a learn2splat fixture and compare every quantity: ``python check_learn2splat.py FIXTURE.pt``.

A fixture is a flat dict of tensors: weights, a start, raw gradients of some steps, and what the
original code computed from them. Prints one line per quantity; exits 1 if any is off by more than
rtol 1e-4 and atol 1e-6. Parts that the fixture lacks are reported as absent.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.points import PointInitOptions, gaussians_from_points
from l2o_splat.losses import l1, photometric_loss, ssim_loss
from l2o_splat.meta.losses import stability_loss, uphill_loss
from l2o_splat.meta.rules import PaperRuleOptions
from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.optim.learn2splat import Learn2SplatConfig, Learn2SplatRule, Proposal, paper_columns
from l2o_splat.optim.rule import Feedback, RuleState
from l2o_splat.rendering import set_num_threads
from l2o_splat.scene import SceneStart

RTOL, ATOL = 1e-4, 1e-6


@dataclass
class Comparison:
    """One line of the report."""

    name: str
    worst: float
    """Largest error relative to ``expected + atol / rtol``, which must not exceed rtol; or share of wrong rows."""

    @property
    def passed(self) -> bool:
        return self.worst <= RTOL


@dataclass
class Replay:
    """A fixture, what was read of it, and how the comparisons went."""

    tensors: dict[str, Tensor]
    read: set[str] = field(default_factory=set)
    comparisons: list[Comparison] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """Parts, and keys that parts need, which the fixture lacks."""

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def steps(self, pattern: str) -> list[int]:
        """Step numbers t from 0 on for which ``pattern`` with t put in is a key."""
        count = 0
        while pattern.format(count) in self:
            count += 1
        return list(range(count))

    def compare(self, name: str, found: Tensor, atol: float | None = None, scale: Tensor | None = None) -> None:
        """Compare with the quantity of that name if the fixture has it.

        ``atol`` defaults to ``ATOL``, times the largest expected value where that exceeds 1: rounding in a
        sum is of the size of its terms. ``scale`` stands in for the expected values as what errors are
        relative to.
        """
        if name not in self:
            return
        expected = self[name]
        if found.shape != expected.shape:
            sizes = f"{tuple(found.shape)} != {tuple(expected.shape)}"
            self.comparisons.append(Comparison(f"{name} {sizes}", float("inf")))
            return
        if not expected.is_floating_point():
            self.comparisons.append(Comparison(name, float((found != expected).double().mean())))
            return
        expected = expected.double()
        if atol is None:
            atol = ATOL * float(expected.abs().max().clamp(min=1)) if expected.numel() else ATOL
        scale = (expected if scale is None else scale.double()).abs()
        relative = (found - expected).abs() / (scale + atol / RTOL)
        self.comparisons.append(Comparison(name, float(relative.max()) if relative.numel() else 0.0))

    def compare_sets(self, name: str, found: Tensor) -> None:
        """Compare rows of indices as sets; the error is the share of rows that differ."""
        if name in self:
            same = found.shape == self[name].shape and (found.sort(1).values == self[name].sort(1).values).all(1)
            self.comparisons.append(Comparison(name, 1 - float(torch.as_tensor(same).float().mean())))


def start(replay: Replay) -> Gaussians:
    """The fixture's scene: linear scales, activated opacities, scalar-last quaternions, channel-major SH."""
    sh = replay["init/sh"].mT.clone()
    return Gaussians(
        means=replay["init/means"],
        scales=replay["init/scales"].clamp(min=1e-30).log(),
        quats=replay["init/quats"][:, [3, 0, 1, 2]],
        opacities=replay["init/opacities"][:, None].logit(1e-7),
        features_dc=sh[:, 0],
        features_rest=sh[:, 1:],
    )


def compare_parameters(replay: Replay, prefix: str, gaussians: Gaussians) -> None:
    replay.compare(f"{prefix}/means_after", gaussians.means)
    replay.compare(f"{prefix}/scales_after", gaussians.scales.exp())
    replay.compare(f"{prefix}/quats_after", gaussians.quats[:, [1, 2, 3, 0]])
    replay.compare(f"{prefix}/opacities_after", gaussians.opacities[:, 0].sigmoid())
    replay.compare(f"{prefix}/sh_after", gaussians.sh.mT)


@contextmanager
def watch(network: Learn2SplatNetwork) -> Iterator[dict[str, list[Tensor]]]:
    """Collects what the inner modules return (in pieces where rows go in portions) and the neighbours used."""
    project, transformer = network.point_transformer
    modules = {"pt_in": project, "state_scale": network.state_scale_head, "head_raw": network.delta_head}
    modules |= {f"block{i}": block for i, block in enumerate(transformer.blocks)}
    seen: dict[str, list[Tensor]] = {name: [] for name in [*modules, "knn_idx"]}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen[name].append(output.detach()))
        for name, module in modules.items()
    ]
    # On one thread, portions of rows come in order.
    set_num_threads(1)
    hooks.append(transformer.register_forward_pre_hook(lambda _, inputs: seen["knn_idx"].append(inputs[1])))
    try:
        yield seen
    finally:
        set_num_threads(None)
        for hook in hooks:
            hook.remove()


def make_rule(replay: Replay, **options) -> Learn2SplatRule:
    prefix = "state_dict/"
    weights = {name.removeprefix(prefix): replay[name] for name in replay.tensors if name.startswith(prefix)}
    shape = Learn2SplatNetworkShape.of(weights)
    neighbours = replay["step0/knn_idx"].shape[1] if "step0/knn_idx" in replay else 4
    if shape == Learn2SplatNetworkShape.of_width(shape.latent_width, 3, shape.num_blocks, shape.feature_width):
        # The released proportions: this is the rule that `l2o meta-train --preset paper-dense` trains.
        paper = PaperRuleOptions(
            width=shape.latent_width, blocks=shape.num_blocks, neighbours=neighbours, precision="float32"
        )
        rule = paper.build(shape.feature_width)
        rule.config = replace(rule.config, **options)
    else:
        config = Learn2SplatConfig(neighbours=neighbours, precision="float32", **options)
        rule = Learn2SplatRule(Learn2SplatNetwork(shape), config)
    rule.network.load_state_dict(weights)
    return rule


def feedback(replay: Replay, t: int) -> Feedback:
    rows = replay[f"step{t}/grad_raw"]
    columns = paper_columns((rows.shape[1] - 11) // 3)
    return Feedback(Gaussians.unpack(rows[:, columns.argsort()]), t, 1.0)


Observer = Callable[[int, Proposal, dict[str, Tensor], Gaussians], None]
"""Sees the number of a step, the proposal, what :func:`watch` collected, and the scene after the step."""


def run(replay: Replay, rule: Learn2SplatRule, observe: Observer = lambda *_: None) -> tuple[Gaussians, RuleState]:
    """All steps from the fixture's start; the last scene and state."""
    gaussians = start(replay)
    if rule.config.cap_sh_degree is not None:
        gaussians.features_rest[:, (rule.config.cap_sh_degree + 1) ** 2 - 1 :] = 0
    state = rule.init_state(SceneStart(gaussians)).updated(latent=replay["init/state"])
    for t in replay.steps("step{}/grad_raw"):
        with watch(rule.network) as seen:
            proposal = rule.propose(gaussians, feedback(replay, t), state)
        gaussians = gaussians.zip_map(torch.add, rule.delta(gaussians, proposal).detach())
        state = proposal.state
        observe(t, proposal, {name: torch.cat(parts) for name, parts in seen.items()}, gaussians)
    return gaussians, state


@torch.no_grad()
def check_steps(replay: Replay, rule: Learn2SplatRule, prefix: str) -> None:
    """Every quantity of every step under ``prefix``."""

    def observe(t: int, proposal: Proposal, seen: dict[str, Tensor], gaussians: Gaussians) -> None:
        step = f"{prefix}step{t}"
        replay.compare(f"{step}/sel", torch.arange(len(gaussians)) if proposal.active is None else proposal.active)
        replay.compare_sets(f"{step}/knn_idx", seen.pop("knn_idx"))
        replay.compare(f"{step}/param_vec", proposal.parameters)
        replay.compare(f"{step}/norm_grad", proposal.direction)
        replay.compare(f"{step}/delta", proposal.step)
        for name in ("adam_m", "adam_v", "adam_t"):
            replay.compare(f"{step}/{name}", proposal.state[name])
        replay.compare(f"{step}/state_after", proposal.state["latent"])
        for name, output in seen.items():
            replay.compare(f"{step}/{name}", output)
        compare_parameters(replay, step, gaussians)

    run(replay, rule, observe)


@torch.no_grad()
def check_sh_cap(replay: Replay, rule: Learn2SplatRule, prefix: str) -> None:
    gaussians, state = run(replay, rule)
    compare_parameters(replay, prefix, gaussians)
    replay.compare(f"{prefix}/state_after", state["latent"])


def check_meta_gradients(replay: Replay, rule: Learn2SplatRule) -> None:
    """Weight gradients of a loss on all steps of one unroll: detach points and the chain of latent states."""
    last = replay.steps("meta/R{}")[-1]
    losses = []

    def observe(t: int, proposal: Proposal, *_) -> None:
        weights = replay[f"meta/R{t}"]
        chosen = weights if proposal.active is None else weights[proposal.active]
        losses.append(0.9 ** (last - t) * (proposal.step * chosen).mean())

    run(replay, rule, observe)
    loss = torch.stack(losses).sum()
    loss.backward()
    replay.compare("meta/loss", loss.detach(), atol=0)
    generator = torch.Generator().manual_seed(999)
    gradients = {name: weight.grad for name, weight in rule.network.named_parameters() if weight.grad is not None}
    # A gradient in which large terms cancel is only as exact as the others are large.
    atol = 1e-6 * max(float(gradient.norm()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        projection = (gradient * torch.randn(gradient.shape, generator=generator)).sum()
        replay.compare(f"meta/grad_norm/{name}", gradient.norm(), atol=atol)
        replay.compare(f"meta/grad_proj/{name}", projection, atol=atol, scale=gradient.norm())


@torch.no_grad()
def check_feature_start(replay: Replay, rule: Learn2SplatRule) -> None:
    features = replay["feat/features"].permute(0, 2, 3, 1).flatten(0, 2)
    gaussians = start(replay)
    rows = torch.arange(len(features)) % len(gaussians)
    replay.compare("feat/state", rule.init_state(SceneStart(gaussians[rows], features))["latent"])


def check_points(replay: Replay) -> None:
    degree = math.isqrt(replay["sfm/sh"].shape[2]) - 1
    gaussians = gaussians_from_points(replay["sfm/xyz"], replay["sfm/rgb"], PointInitOptions(sh_degree=degree))
    replay.compare("sfm/scales", gaussians.scales.exp())
    replay.compare("sfm/opacities", gaussians.opacities[:, 0].sigmoid())
    replay.compare("sfm/quats", gaussians.quats[:, [1, 2, 3, 0]])
    replay.compare("sfm/sh", gaussians.sh.mT)


def check_loss(replay: Replay) -> None:
    images, rendered = (replay[f"loss/{name}"].flatten(0, 1).permute(0, 2, 3, 1) for name in ("gt", "pred"))
    rendered = rendered.clone().requires_grad_()
    value = photometric_loss(rendered, images)
    value.backward()
    replay.compare("loss/l1", l1(rendered, images).detach())
    replay.compare("loss/ssim", ssim_loss(rendered, images).detach())
    replay.compare("loss/value", value.detach())
    replay.compare("loss/grad_pred", rendered.grad.permute(0, 3, 1, 2).view_as(replay["loss/pred"]))


def check_meta_losses(replay: Replay) -> None:
    rows = [replay[f"meta_loss/{name}"].flatten(0, 1) for name in ("deltas", "gradients", "norm_gradients")]
    replay.compare("meta_loss/delta_value", uphill_loss(*rows))
    errors = (replay["meta_loss/renders"] - replay["meta_loss/gt"]).abs().mean(dim=(3, 4, 5)).flatten(1)
    replay.compare("meta_loss/stability_value", stability_loss(errors))


def read(path: Path) -> Replay:
    """A fixture in PyTorch's format or in safetensors."""
    return Replay(load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True))


def replay_all(path: Path) -> Replay:
    """All parts that the fixture has."""
    return replay_parts(read(path))


def replay_parts(replay: Replay) -> Replay:
    """Run every part of which the fixture has anything."""
    last = len(replay.steps("step{}/grad_raw")) - 1
    fast = {"active_only": False, "knn_refresh_interval": 100}
    parts: dict[str, Callable[[], None]] = {
        "step0/": lambda: check_steps(replay, make_rule(replay), ""),
        "fast/": lambda: check_steps(replay, make_rule(replay, **fast), "fast/"),
        "shcap0/": lambda: check_sh_cap(replay, make_rule(replay, cap_sh_degree=0), f"shcap0/step{last}"),
        "meta/": lambda: check_meta_gradients(replay, make_rule(replay)),
        "feat/": lambda: check_feature_start(replay, make_rule(replay)),
        "sfm/": lambda: check_points(replay),
        "loss/": lambda: check_loss(replay),
        "meta_loss/": lambda: check_meta_losses(replay),
    }
    for prefix, check in parts.items():
        if not any(name.startswith(prefix) for name in replay.tensors):
            replay.absent.append(f"{prefix}*")
            continue
        try:
            check()
        except KeyError as missing:
            replay.absent.append(f"{missing.args[0]}, which {prefix}* needs")
    return replay


def report(replay: Replay) -> int:
    """Print everything; the exit status."""
    for comparison in replay.comparisons:
        verdict = "ok  " if comparison.passed else "FAIL"
        print(f"{verdict} {comparison.name:60s} {comparison.worst:.1e}")
    for key in replay.absent:
        print(f"absent: {key}")
    for key in sorted(set(replay.tensors) - replay.read):
        print(f"unknown key: {key}")
    failed = sum(not comparison.passed for comparison in replay.comparisons)
    print(f"{len(replay.comparisons)} quantities compared at rtol {RTOL} / atol {ATOL}, {failed} failed")
    return 1 if failed or not replay.comparisons else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("One fixture is needed: python check_learn2splat.py FIXTURE.pt")
    sys.exit(report(replay_all(Path(sys.argv[1]))))
