"""Weights of learned rules and initializers: one format, conversion of the original files, a catalogue."""

from l2o_splat.weights.format import FORMAT_VERSION, Weights, WeightsCard, WeightsError, save_weights
from l2o_splat.weights.load import load_weights

__all__ = ["FORMAT_VERSION", "Weights", "WeightsCard", "WeightsError", "load_weights", "save_weights"]
