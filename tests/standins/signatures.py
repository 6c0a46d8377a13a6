"""Signatures of the CUDA packages that we call, copied from their releases: name and default of every argument.

``...`` stands for no default; a default that is no literal is given as its source text. Every argument may be given by
position or by name.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any

_RASTERIZATION = {
    "means": ...,
    "quats": ...,
    "scales": ...,
    "opacities": ...,
    "colors": ...,
    "viewmats": ...,
    "Ks": ...,
    "width": ...,
    "height": ...,
    "near_plane": 0.01,
    "far_plane": 1e10,
    "radius_clip": 0.0,
    "eps2d": 0.3,
    "sh_degree": None,
    "packed": True,
    "tile_size": 16,
    "backgrounds": None,
    "render_mode": "RGB",
    "sparse_grad": False,
    "absgrad": False,
    "rasterize_mode": "classic",
    "channel_chunk": 32,
    "distributed": False,
    "camera_model": "pinhole",
}

GSPLAT_RASTERIZATION: dict[str, dict[str, Any]] = {
    "1.4.0": {**_RASTERIZATION, "covars": None},
    "1.5.3": {
        **_RASTERIZATION,
        "segmented": False,
        "covars": None,
        "with_ut": False,
        "with_eval3d": False,
        "radial_coeffs": None,
        "tangential_coeffs": None,
        "thin_prism_coeffs": None,
        "ftheta_coeffs": None,
        "rolling_shutter": "RollingShutterType.GLOBAL",
        "viewmats_rs": None,
    },
}
"""``gsplat.rasterization`` by release. 1.4.0 is the one that nerfstudio 1.1.5 pins, 1.5.3 the newest on PyPI."""

FUSED_SSIM: dict[str, Any] = {"img1": ..., "img2": ..., "padding": "same", "train": True}
"""``fused_ssim.fused_ssim`` at commit 328dc98; the package is not on PyPI and has no releases."""


def signature_of(arguments: dict[str, Any]) -> inspect.Signature:
    """A recorded signature in a form that calls can be bound to."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=inspect.Parameter.empty if default is ... else default,
            )
            for name, default in arguments.items()
        ]
    )


def read_signature(source: str, function: str) -> dict[str, Any]:
    """The arguments of a top-level function, read from its source without running it."""
    definition = next(
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == function
    )
    arguments = definition.args
    assert not (arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg or arguments.kwarg)
    names = [argument.arg for argument in arguments.args]
    defaults = [...] * (len(names) - len(arguments.defaults)) + [_value(node) for node in arguments.defaults]
    return dict(zip(names, defaults, strict=True))


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
