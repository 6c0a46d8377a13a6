"""A VGG-19 of MatConvNet whose taps are known: every convolution passes three channels on."""

from pathlib import Path

import numpy as np
from scipy.io import savemat

from l2o_splat.nets.perceptual_network import BACKBONES

GAINS = (1.0, 2.0, 1.0, 0.5, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Factors of the convolutions up to the last tap; in the first block the first and the second one, and so on."""
MEAN = BACKBONES["vgg19"].mean


def passing(inputs: int, outputs: int, gain: float) -> np.ndarray:
    """Filters [3, 3, inputs, outputs] that pass the first three channels on."""
    filters = np.zeros((3, 3, inputs, outputs), dtype=np.float32)
    for channel in range(3):
        filters[1, 1, channel, channel] = gain
    return filters


def layers(change=lambda index, filters, biases: (filters, biases)) -> list[dict]:
    """The layers of the file; ``change`` is applied to filters and biases of every convolution."""
    found, inputs = [], 3
    for index, (layer, gain) in enumerate(zip(BACKBONES["vgg19"].layers, GAINS, strict=True)):
        if layer.pool:
            found.append({"name": f"pool{index}", "type": "pool", "pool": [2.0, 2.0]})
        filters, biases = change(index, passing(inputs, layer.channels, gain), np.zeros(layer.channels, np.float32))
        weights = np.empty((1, 2), dtype=object)
        weights[0, 0], weights[0, 1] = filters, biases[None]
        found += [{"name": f"conv{index}", "type": "conv", "weights": weights}, {"name": "relu", "type": "relu"}]
        inputs = layer.channels
    return found


def write_vgg19(path: Path, layers: list[dict], mean=MEAN) -> Path:
    """A MATLAB file as MatConvNet writes it."""
    cells = np.empty((1, len(layers)), dtype=object)
    cells[0, :] = layers
    meta = {"normalization": {"averageImage": np.asarray(mean, dtype=np.float32).reshape(1, 1, 3)}}
    savemat(path, {"layers": cells, "meta": meta}, do_compression=True)
    return path
