"""A start that covers the surfaces: depths of all views, agreed on by several, as flat Gaussians."""

from l2o_splat.initializers.dense.head import DenseHead
from l2o_splat.initializers.dense.start import DenseOptions, Surfaces, dense_gaussians, find_surfaces

__all__ = ["DenseHead", "DenseOptions", "Surfaces", "dense_gaussians", "find_surfaces"]
