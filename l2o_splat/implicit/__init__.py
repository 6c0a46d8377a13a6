"""Differentiable optimization: refine predicted Gaussians on context views, and differentiate through the result."""
