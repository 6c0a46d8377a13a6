"""VGG-19 from the file of MatConvNet, ``imagenet-vgg-verydeep-19.mat``: the weights of the papers' perceptual losses.

Its filters are laid out [height, width, inputs, outputs] and correlate with images in red, green, blue from 0 to 255,
less their mean. MATLAB files up to version 7 hold arrays and no code; scipy reads them.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch import Tensor

from l2o_splat.nets.perceptual_network import BACKBONES, PerceptualNetwork
from l2o_splat.weights.format import WeightsError

FILE = "imagenet-vgg-verydeep-19.mat"
PAGE = "https://www.vlfeat.org/matconvnet/pretrained/"
_WHERE = f"name {FILE} of MatConvNet ({PAGE})"


def read_vgg19(path: Path) -> PerceptualNetwork:
    """The network of the papers' losses from a file of MatConvNet.

    Raises:
        WeightsError: If the file is missing, damaged, or of another network.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; {_WHERE}.")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] in (b"PK", b"\x80\x02") or path.suffix in (".pth", ".pt", ".safetensors"):
        raise WeightsError(
            f"{path} is a file of torch. torchvision's VGG-19 was trained apart and takes other inputs, so that it is "
            f"not the network of the papers; {_WHERE}."
        )
    try:
        found = loadmat(path, variable_names=["layers", "meta", "normalization"], simplify_cells=True)
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, EOFError, zlib.error, MatReadError) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{path} cannot be read as a MATLAB file ({what}); {_WHERE}.") from None
    _require_mean(path, found)
    try:
        return PerceptualNetwork.of_tensors("vgg19", _tensors(path, found.get("layers")))
    except ValueError as error:
        raise WeightsError(f"{path} holds another network: {error} Please {_WHERE}.") from None


def _tensors(path: Path, layers: Any) -> dict[str, Tensor]:
    """Filters and biases of the convolutions, in their order, as the network names and lays them out."""
    convolutions = [layer for layer in np.atleast_1d(layers) if isinstance(layer, dict) and layer.get("type") == "conv"]
    needed = len(BACKBONES["vgg19"].layers)
    if len(convolutions) < needed:
        raise WeightsError(f"{path} has {len(convolutions)} convolutions where VGG-19 has {needed} and more; {_WHERE}.")
    tensors = {}
    for index, layer in enumerate(convolutions[:needed]):
        # The field was split in two in files of early versions.
        pair = layer["weights"] if "weights" in layer else (layer.get("filters"), layer.get("biases"))
        try:
            filters, biases = (torch.tensor(np.asarray(part, dtype=np.float32)) for part in pair)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"Layer {layer.get('name')} in {path} has no filters ({error}); {_WHERE}.") from None
        if filters.ndim != 4:
            raise WeightsError(
                f"The filters of layer {layer.get('name')} in {path} have {filters.ndim} axes; {_WHERE}."
            )
        tensors[f"convolutions.{index}.weight"] = filters.permute(3, 2, 0, 1).contiguous()
        tensors[f"convolutions.{index}.bias"] = biases.flatten()
    return tensors


def _require_mean(path: Path, found: dict[str, Any]) -> None:
    """Refuse a network that was trained on images with another mean, or with blue first."""
    meta = found.get("meta")
    normalization = meta.get("normalization") if isinstance(meta, dict) else found.get("normalization")
    mean = normalization.get("averageImage") if isinstance(normalization, dict) else None
    if mean is None:
        return
    mean = np.asarray(mean, dtype=np.float64)
    channels = mean.reshape(-1, mean.shape[-1]).mean(axis=0) if mean.ndim else mean[None]
    expected = BACKBONES["vgg19"].mean
    if channels.shape != (3,) or not np.allclose(channels, expected, atol=0.5):
        raise WeightsError(
            f"{path} says that its inputs have the mean {channels.round(2).tolist()}, and {list(expected)} (red, "
            f"green, blue) is needed; {_WHERE}."
        )
