"""What stands in for gsplat without CUDA: its signature and its rules, with the images of the reference renderer."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import RasterSettings, gsplat, reference
from tests.standins.signatures import GSPLAT_RASTERIZATION, signature_of

RULES = {"1.4.0": "1.4", "1.5.3": "1.5"}
"""Image rules of each release."""


class Fault(AssertionError):
    """A call that gsplat would refuse, or answer with a wrong image or gradient."""


class GsplatPackage:
    """The module ``gsplat`` of one release, as far as we call it.

    Args:
        version: A release of which the signature is recorded.
    """

    def __init__(self, version: str) -> None:
        self.__version__ = version
        self.calls: list[dict[str, Any]] = []
        """The arguments of every call of :meth:`rasterization`, defaults included."""
        self._signature = signature_of(GSPLAT_RASTERIZATION[version])

    def rasterization(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Images ``[c, h, w, d]``, alpha ``[c, h, w, 1]`` and meta, as ``gsplat.rasterization`` of this release.

        Differentiable to all that gsplat is differentiable to.

        Raises:
            TypeError: If the arguments do not fit the signature.
            Fault: If their values break a rule of gsplat, or ask for what is not modelled here.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self.calls.append(bound.arguments)
        _check_modelled(bound.arguments, GSPLAT_RASTERIZATION[self.__version__])
        _check_tensors(bound.arguments)
        _check_conventions(bound.arguments)
        return _draw(bound.arguments, self.__version__)


def stand_in_for_gsplat(monkeypatch, version: str) -> GsplatPackage:
    """Let the gsplat backend draw float32 Gaussians of the CPU, with the stand-in for a release."""
    package = GsplatPackage(version)
    monkeypatch.setattr(gsplat, "can_draw", lambda gaussians: gaussians.means.dtype == torch.float32)
    monkeypatch.setattr(gsplat, "_gsplat", lambda: package)
    return package


def _require(holds: bool | Tensor, rule: str) -> None:
    if not holds:
        raise Fault(rule)


MODELLED = {
    *("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height", "near_plane"),
    *("far_plane", "eps2d", "sh_degree", "packed", "backgrounds", "render_mode", "rasterize_mode", "absgrad"),
}
"""Arguments that may have other values than their defaults."""


def _check_modelled(arguments: dict[str, Any], defaults: dict[str, Any]) -> None:
    for name, value in arguments.items():
        _require(name in MODELLED or value == defaults[name], f"{name}={value!r} is not modelled")
    _require(arguments["packed"] is False, "packed=True is not modelled")
    _require(arguments["sh_degree"] is not None, "colours without spherical harmonics are not modelled")
    _require(arguments["render_mode"] in ("RGB", "RGB+ED"), f"render_mode={arguments['render_mode']!r} is not modelled")
    _require(arguments["rasterize_mode"] in ("classic", "antialiased"), "rasterize_mode is classic or antialiased")


def _check_tensors(arguments: dict[str, Any]) -> None:
    """Types, devices and shapes. Layout does not matter: the kernels get contiguous copies where it has to be so."""
    n, c, k = len(arguments["means"]), len(arguments["viewmats"]), arguments["colors"].shape[1]
    _require(n > 0, "the kernels are not started for no Gaussians")
    shapes = {
        "means": (n, 3),
        "quats": (n, 4),
        "scales": (n, 3),
        "opacities": (n,),
        "colors": (n, k, 3),
        "viewmats": (c, 4, 4),
        "Ks": (c, 3, 3),
    }
    if arguments["backgrounds"] is not None:
        shapes["backgrounds"] = (c, 3)
    for name, shape in shapes.items():
        tensor = arguments[name]
        _require(tensor.shape == shape, f"{name} is {tuple(tensor.shape)}; {shape} is needed")
        _require(tensor.dtype == torch.float32, f"{name} is {tensor.dtype}; the kernels read float32")
        _require(tensor.device == arguments["means"].device, f"{name} is on {tensor.device}")
    for name, kind in (("width", int), ("height", int), ("sh_degree", int), ("near_plane", float), ("eps2d", float)):
        _require(type(arguments[name]) is kind, f"{name} is a {type(arguments[name]).__name__}")
    _require((arguments["sh_degree"] + 1) ** 2 <= k, f"sh_degree {arguments['sh_degree']} needs more than {k} bands")
    differentiated = torch.is_grad_enabled() and arguments["Ks"].requires_grad
    _require(not differentiated, "gsplat gives no gradient to Ks, and says nothing")


def _check_conventions(arguments: dict[str, Any]) -> None:
    """What can be seen in the values alone; that they mean the right scene, only its image can tell."""
    scales, opacities = arguments["scales"].detach(), arguments["opacities"].detach()
    _require((scales >= 0).all(), "scales are standard deviations, not their logarithms")
    _require(((opacities >= 0) & (opacities <= 1)).all(), "opacities lie in 0..1; these are logits")
    viewmats, Ks = arguments["viewmats"].detach(), arguments["Ks"].detach()
    last_row = viewmats.new_tensor([0.0, 0, 0, 1])
    _require((viewmats[:, 3] == last_row).all(), "the last row of camera-from-world matrices is 0 0 0 1")
    rotation = viewmats[:, :3, :3].double()
    _require(
        torch.allclose(rotation @ rotation.mT, torch.eye(3).double(), atol=1e-4) and (rotation.det() > 0).all(),
        "viewmats rotate: they neither scale nor mirror",
    )
    _require((Ks[:, 2] == Ks.new_tensor([0.0, 0, 1])).all() and (Ks[:, 0, 1] == 0).all(), "Ks are fx 0 cx, 0 fy cy")
    _require((Ks[:, 0, 0] > 0).all() and (Ks[:, 1, 1] > 0).all(), "focal lengths are positive, in pixels")


def _draw(arguments: dict[str, Any], version: str) -> tuple[Tensor, Tensor, dict[str, Any]]:
    scene = _unactivated(arguments)
    settings = RasterSettings(
        rasterize_mode=arguments["rasterize_mode"],
        eps2d=arguments["eps2d"],
        near=arguments["near_plane"],
        far=arguments["far_plane"],
        sh_degree=arguments["sh_degree"],
        image_rules=RULES[version],
    )
    size = arguments["width"], arguments["height"]
    seen = [
        _project(scene, viewmat, K, size, settings)
        for viewmat, K in zip(arguments["viewmats"].double(), arguments["Ks"].double(), strict=True)
    ]
    meta = _meta([splats for _, splats in seen], [rows for rows, _ in seen], len(scene), size, version)
    drawn = []
    for view, (rows, splats) in enumerate(seen):
        columns = {field.name: getattr(splats, field.name) for field in fields(splats)}
        # Through the tensor that the caller is given, so that its gradient is the one of the centres.
        columns["centres"] = meta["means2d"][view, rows].double()
        drawn.append(reference.composite(reference.Splats(**columns), size, settings))
    images = torch.stack(drawn)
    if arguments["absgrad"] and images.requires_grad:
        # On a view, since the derivatives that the hook takes would call a hook of the images again, without end.
        composited, images = images, images.view_as(images)
        images.register_hook(lambda cotangents: _keep_absolute_gradients(composited, cotangents, meta["means2d"]))
    colours, depth, alpha = images.split([3, 1, 1], dim=3)
    if arguments["backgrounds"] is not None:
        colours = colours + (1 - alpha) * arguments["backgrounds"][:, None, None]
    if arguments["render_mode"] == "RGB+ED":
        colours = torch.cat([colours, depth / alpha.clamp(min=1e-10)], dim=3)
    return colours.float(), alpha.float(), meta


def _unactivated(arguments: dict[str, Any]) -> Gaussians:
    """The scene before activation, in float64, in which activating it again loses nothing."""
    means, quats, scales, opacities, colours = (
        arguments[name].double() for name in ("means", "quats", "scales", "opacities", "colors")
    )
    opacities = opacities.clamp(1e-12, 1 - 1e-12)
    return Gaussians(
        means, scales.clamp(min=1e-30).log(), quats, opacities.logit()[:, None], colours[:, 0], colours[:, 1:]
    )


def _project(scene: Gaussians, viewmat: Tensor, K: Tensor, size, settings) -> tuple[Tensor, reference.Splats]:
    """Row numbers of the Gaussians in sight, front to back, and their splats."""
    with torch.no_grad():
        splats = reference.project(scene, viewmat, K, size, settings)
        rows = splats.visible.nonzero()[:, 0]
        rows = rows[splats.depths[rows].argsort(stable=True)]
    return rows, reference.project(scene[rows], viewmat, K, size, settings)


def _meta(seen: list[reference.Splats], rows: list[Tensor], n: int, size, version: str) -> dict[str, Any]:
    """What gsplat gives besides images.

    Rows of Gaussians out of sight have radius 0; the kernels leave the memory of the others as they find it, which NaN
    stands for. Lists of tiles are not modelled.
    """

    def table(name: str) -> Tensor:
        values = [getattr(splats, name) for splats in seen]
        empty = [torch.full((n, *value.shape[1:]), torch.nan, dtype=value.dtype) for value in values]
        return torch.stack([e.index_put((r,), v) for e, r, v in zip(empty, rows, values, strict=True)]).float()

    radii = table("radii").nan_to_num().int()
    meta = {
        "camera_ids": None,
        "gaussian_ids": None,
        "radii": radii.amax(dim=2) if version == "1.4.0" else radii,
        "means2d": table("centres"),
        "depths": table("depths"),
        "conics": table("conics"),
        "opacities": table("opacities"),
        "tile_width": -(-size[0] // reference.TILE),
        "tile_height": -(-size[1] // reference.TILE),
        "width": size[0],
        "height": size[1],
        "tile_size": reference.TILE,
        "n_cameras": len(seen),
    }
    return meta if version == "1.4.0" else {**meta, "batch_ids": None, "n_batches": 1}


def _keep_absolute_gradients(images: Tensor, cotangents: Tensor, means2d: Tensor) -> None:
    """Sum over pixels of the absolute gradient that each pixel gives a centre, in ``means2d.absgrad``, as gsplat."""
    total = torch.zeros_like(means2d)
    for pixel in cotangents.abs().sum(dim=3).nonzero().tolist():
        alone = torch.zeros_like(cotangents)
        alone[tuple(pixel)] = cotangents[tuple(pixel)]
        total += torch.autograd.grad(images, means2d, alone, retain_graph=True)[0].abs()
    means2d.absgrad = total
