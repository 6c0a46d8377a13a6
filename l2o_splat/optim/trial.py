"""One tiny step, so that the kernels of a rule are compiled before a run needs them."""

from __future__ import annotations

import torch
from torch.nn import Parameter

from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.gain_network import GainNetwork
from l2o_splat.nets.gain_shape import GainNetworkShape
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.colour_step import colour_step
from l2o_splat.optim.gain import GainConfig, GainRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.rule import UpdateRule
from l2o_splat.rendering.evidence import ColourEvidence, Evidence


def compile_adam() -> None:
    """Compile the kernels of Adam's step, or read their machine code from disk."""
    _take_step(AdamRule(adam_options("own-scale", horizon=1)))


def compile_colour_step() -> None:
    """Compile the kernel of the colours in closed form, or read its machine code from disk."""
    scene = Gaussians.unpack(torch.linspace(-1, 1, 4 * 23).view(4, 23))
    colours = ColourEvidence(torch.ones(1, 4, 3), torch.ones(1, 4), torch.full((1, 3), 2.0), sh_degree=1)
    colour_step(scene, Evidence(torch.ones(4), torch.ones(4, dtype=torch.int64), colours))


def compile_gain() -> None:
    """Compile the kernels of the gain rule and its network, or read their machine code from disk."""
    network = GainNetwork(GainNetworkShape()).reset_to_adam(0, (1.0,) * 6)
    _take_step(GainRule(network, GainConfig()))


def _take_step(rule: UpdateRule) -> None:
    scene = Gaussians.unpack(torch.linspace(-1, 1, 64 * 59).view(64, 59))
    parameters = {name: Parameter(value.clone()) for name, value in scene.items()}
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    JointOptimizer(parameters, rule).step()
