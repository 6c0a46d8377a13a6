"""Learned optimization for 3D Gaussian Splatting, as a nerfstudio plugin and as a library."""

__version__ = "0.1.0"
