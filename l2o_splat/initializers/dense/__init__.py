"""A start that covers the surfaces: depths of all views, agreed on by several, as flat Gaussians."""

from l2o_splat.initializers.dense.start import DenseOptions, dense_gaussians

__all__ = ["DenseOptions", "dense_gaussians"]
