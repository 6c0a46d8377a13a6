"""Networks of the mini size, and their weights before training."""

from __future__ import annotations

import torch
from torch import nn

from l2o_splat.gaussians import SH_C0
from l2o_splat.nets.resplat.config import PARAMETER_WIDTH, ReSplatConfig, ReSplatShape
from l2o_splat.nets.resplat.depth import DepthNetwork
from l2o_splat.nets.resplat.encoder import IMAGENET_STD
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork

FIRST_OPACITY_LOGIT = 1.0
"""Opacity logit of an untrained model's Gaussians."""
FEATURE_GAIN = 4.0
"""Factor of the first features, with which they outweigh the position encoding that is added to them."""
SMALL = 0.3
"""Factor of weights whose inputs may be of any size."""
FIRST_COLOUR_STEP = 0.3
"""Share of the colour error that an untrained update removes."""
LOGIT_GAIN = 1.0
"""Factor from correlations to the logits of the depth candidates."""


def new_initial_model(shape: ReSplatShape, config: ReSplatConfig, seed: int) -> InitialModel:
    """An untrained model that already compares views (ours; the original starts from trained parts).

    Its depths are those at which untrained convolutional features agree best, as in a plane sweep; its Gaussians are
    round and have the colours of the photographs. Training starts with small changes of these, which saves most of the
    training time.
    """
    torch.manual_seed(seed)
    model = InitialModel(shape, config)
    m, last = shape.gaussians_per_cell, model.gaussian_head[2]
    with torch.no_grad():
        nn.init.trunc_normal_(model.depth_predictor.pretrained.pos_embed, std=0.02)
        # The head has no normalisation before it: large inputs would saturate all of its hidden units.
        model.gaussian_regressor[0].weight.mul_(SMALL)
        model.proj.weight.mul_(SMALL)
        last.weight[4 * m :] = 0
        last.bias.zero_()
        last.bias[3 * m : 4 * m] = 1  # The real part of the rotation.
        last.bias[7 * m : 8 * m] = FIRST_OPACITY_LOGIT
        _pass_matching_on(model.depth_predictor)
    return model


def _pass_matching_on(network: DepthNetwork) -> None:
    """Make the correlations of the plane sweep the logits of the depth candidates."""
    network.backbone.conv2.weight.mul_(FEATURE_GAIN)
    for layer in network.transformer.layers:
        for norm in (layer.self_attn.norm1, layer.cross_attn_ffn.norm2):
            nn.init.constant_(norm.weight, 0.1)
    regressor, residual, head = network.regressor[0], network.regressor_residual[0], network.depth_head[0]
    nn.init.zeros_(network.upsampler.scratch.output_conv[-1].weight)
    nn.init.zeros_(network.upsampler.scratch.output_conv[-1].bias)
    if network.shape.unet_width != network.shape.num_depths:
        return
    nn.init.zeros_(regressor[-1].weight)
    for module in (regressor[-1], residual, head[0], head[2]):
        nn.init.zeros_(module.bias)
    d = network.shape.num_depths
    one = torch.eye(d)
    residual.weight.zero_()[:, :d, 0, 0] = one
    # gelu(x) - gelu(-x) = x: two layers pass numbers on as they are.
    for module, matrix in ((head[0], torch.cat([one, -one])), (head[2], LOGIT_GAIN * torch.cat([one, -one], dim=1))):
        module.weight.mul_(0.1)[:, :, 1, 1] += matrix


def new_update_network(shape: ReSplatShape, seed: int) -> ReSplatUpdateNetwork:
    """An untrained update, which changes nothing; if it sees the errors in front of a Gaussian, it changes colours.

    The package has no ImageNet weights, with which the original compares images: the features are trained with the
    rest.
    """
    torch.manual_seed(seed)
    network = ReSplatUpdateNetwork(shape)
    network.update_feature.requires_grad_(True)
    for module in network.update_feature.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.zeros_(network.update_head[-1].weight)
    nn.init.zeros_(network.update_head[-1].bias)
    if shape.update.front_error:
        with torch.no_grad():
            _correct_colours(network)
    return network


def _correct_colours(network: ReSplatUpdateNetwork) -> None:
    """Move every Gaussian's colour against the mean colour error that views show where it is in front.

    The first three channels of every layer carry that error, and initially nothing else.
    """
    shape, channels = network.shape.update, torch.arange(3)
    # The first map holds the difference of mean colours, sRGB.
    stem = network.update_feature.conv1.weight
    stem[:3] = 0
    for channel, std in enumerate(IMAGENET_STD):
        stem[channel, channel] = std / stem[0, 0].numel()
    norm = network.update_rgb_error_proj[1]
    norm.weight[:3], norm.bias[:3] = 0, 0
    for block in network.update_error_attn:
        block.conv.weight.mul_(SMALL)
        block.conv.weight[:3], block.conv.bias[:3] = 0, 0
    # From the error to the state, which does not keep the errors of earlier steps.
    project, transformer = network.update_module
    project.linear.weight[:3], project.linear.bias[:3] = 0, 0
    project.linear.weight[channels, PARAMETER_WIDTH + channels] = -1
    first = PARAMETER_WIDTH + shape.state_width + shape.error_width
    project.linear.weight[channels, first + channels] = 1
    network.update_proj.weight[:3], network.update_proj.bias[:3] = 0, 0
    for block in transformer.blocks:
        for last in (block.attn.proj, block.mlp.fc2):
            last.weight[:3], last.bias[:3] = 0, 0
    # gelu(x) - gelu(-x) = x, as above.
    one = torch.eye(3)
    join, part = torch.cat([one, -one], dim=1), torch.cat([one, -one])
    for layer, matrix in zip(network.update_head[:-1:2], (part, part @ join, part @ join), strict=True):
        layer.weight[:6], layer.bias[:6] = 0, 0
        layer.weight[:6, : matrix.shape[1]] = matrix
    harmonics = PARAMETER_WIDTH - 48
    network.update_head[-1].weight[harmonics + 16 * channels, :6] = -FIRST_COLOUR_STEP / SH_C0 * join
