"""Weights of update rules and initializers: their format, a catalogue, conversion of the original files."""

from l2o_splat.weights.format import FORMAT_VERSION, Weights, WeightsCard, WeightsError, save_weights
from l2o_splat.weights.load import load_weights

__all__ = ["FORMAT_VERSION", "Weights", "WeightsCard", "WeightsError", "load_weights", "save_weights"]
