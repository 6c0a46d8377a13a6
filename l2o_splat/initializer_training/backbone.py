"""The published backbone that new networks start with, if it can be had."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from l2o_splat.weights import WeightsError
from l2o_splat.weights.backbones import fetch_backbone, load_into, name_of, published_backbone, read_backbone

AUTO, NONE = "auto", "none"
"""Take the published file from torch's cache or its download; start at random. Anything else is a path."""


def start_backbone(module: nn.Module, vit: str | None, reference: str) -> str | None:
    """Give a new backbone its tensors; where there are none, print so.

    Args:
        module: An image transformer, or error features.
        vit: Kind of the image transformer; None for error features.
        reference: Of the tensors: "auto", "none" or a path.

    Returns:
        What it starts from, for the training record; None for random numbers.

    Raises:
        WeightsError: If a named file cannot be used.
    """
    name = "ResNet-18 of the error features" if vit is None else f"image transformer ({vit})"
    if reference == NONE:
        print(f"The {name} starts at random, as --backbone-weights none says.")
        return None
    if reference != AUTO:
        load_into(module, read_backbone(Path(reference)), reference)
        return name_of(Path(reference))
    address = published_backbone(vit)
    try:
        if address is None:
            raise WeightsError("there are no published weights of this size")
        load_into(module, fetch_backbone(address), address)
    except WeightsError as error:
        print(f"The {name} starts at random: {error}. Give its file with --backbone-weights to start from it.")
        return None
    return address
