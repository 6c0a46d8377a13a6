"""ReSplat weights whose update lacks a part that it was trained with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from l2o_splat.bench.suites.studies import Part
from l2o_splat.nets.resplat.config import PARAMETER_WIDTH
from l2o_splat.weights.format import Weights, file_pair, save_weights
from l2o_splat.weights.load import load_weights
from l2o_splat.weights.resplat import read_tensors

WEIGHTS_NAME = "study-weights"
"""Folder of such weights, in that of the report."""
DEFAULT = "resplat-mini"


def without(part: Part, weights: Weights) -> Weights:
    """Weights that compute what the trained ones would if the update had no such part.

    ``knn``: each Gaussian attends to itself alone. ``global-attention``: the error is not spread over the views.
    ``error``: the update sees zeros where it saw the error of the renders.

    Raises:
        WeightsError: If the weights have no update.
    """
    read = read_tensors(weights.require("resplat"), {})
    card, tensors = weights.card, dict(weights.tensors)
    if part == "knn":
        return Weights(tensors, replace(card, behaviour=card.behaviour | {"update_neighbours": 1}))
    for name, tensor in tensors.items():
        bare = name.removeprefix("encoder.")
        if part == "global-attention" and bare.startswith("update_error_attn.") and ".conv." in bare:
            tensors[name] = torch.zeros_like(tensor)  # The convolution ends a residual branch.
        if part == "error" and bare == "update_module.0.linear.weight":
            seen = PARAMETER_WIDTH + read.shape.update.state_width
            tensors[name] = torch.cat([tensor[:, :seen], torch.zeros_like(tensor[:, seen:])], dim=1)
    return Weights(tensors, card)


def write_without(part: Part, reference: str | None, out: Path) -> Path:
    """Write weights without a part, unless they are there; return their path without suffix.

    Args:
        part: What is taken out.
        reference: The weights; None takes those that come with the package.
        out: Folder of the report.
    """
    weights = load_weights(reference or DEFAULT)
    path = out / WEIGHTS_NAME / f"{(weights.card.sha256 or 'weights')[:10]}-no-{part}"
    if not all(file.is_file() for file in file_pair(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        ablated = without(part, weights)
        source = f"{weights.card.source}, without {part} in the update"
        save_weights(path, Weights(ablated.tensors, replace(ablated.card, source=source)))
    return path
