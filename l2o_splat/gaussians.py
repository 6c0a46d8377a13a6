"""The scene: one typed container of six tensors in nerfstudio's own parametrisation.

Every parameter is *unactivated*: scales are natural logarithms, opacities are logits, quaternions
need not be normalised. Activations happen in :mod:`l2o_splat.rendering` alone. ``FIELDS`` is the
one packing order of the package; see ``docs/conventions.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

FIELDS = ("means", "scales", "quats", "opacities", "features_dc", "features_rest")

_WIDTHS = {"means": 3, "scales": 3, "quats": 4, "opacities": 1, "features_dc": 3}
"""Columns of the fields of fixed width in a packed row; ``features_rest`` takes the others."""

SH_C0 = 0.28209479177387814
"""Y_0^0, the constant spherical harmonic: colour = 0.5 + SH_C0 * features_dc (3DGS convention)."""


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic Gaussians with view-dependent colour (3D Gaussian Splatting, arXiv 2308.04079).

    The same container carries gradients, deltas and any other value that has one number per parameter.
    """

    means: Float[Tensor, "n 3"]
    """Centres, scene units, world frame."""
    scales: Float[Tensor, "n 3"]
    """Natural logarithm of the standard deviations (scene units) along the Gaussian's own axes."""
    quats: Float[Tensor, "n 4"]
    """World-from-Gaussian rotation as a quaternion w, x, y, z; normalised by the renderer."""
    opacities: Float[Tensor, "n 1"]
    """Logit of the opacity."""
    features_dc: Float[Tensor, "n 3"]
    """Spherical harmonic of degree 0 for R, G, B."""
    features_rest: Float[Tensor, "n k 3"]
    """Spherical harmonics of degree 1 to D, k = (D + 1)^2 - 1."""

    def __post_init__(self) -> None:
        n = self.means.shape[0]
        k = self.features_rest.shape[1] if self.features_rest.ndim == 3 else -1
        expected = {
            "means": (n, 3),
            "scales": (n, 3),
            "quats": (n, 4),
            "opacities": (n, 1),
            "features_dc": (n, 3),
            "features_rest": (n, k, 3),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"Gaussians.{name} has shape {found}; {shape} is needed for {n} means.")
        if math.isqrt(k + 1) ** 2 != k + 1:
            raise ValueError(f"features_rest holds {k} bands; a full SH degree has 0, 3, 8, 15 or 24.")

    @classmethod
    def from_mapping(cls, tensors: Mapping[str, Tensor]) -> Gaussians:
        """Build from any mapping that holds the six ``FIELDS`` (a ``ParameterDict``, a checkpoint)."""
        missing = [name for name in FIELDS if name not in tensors]
        if missing:
            raise KeyError(f"Missing {missing}; a scene needs all of {list(FIELDS)}.")
        return cls(**{name: tensors[name] for name in FIELDS})

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree D of the stored spherical harmonics."""
        return math.isqrt(self.features_rest.shape[1] + 1) - 1

    @property
    def sh(self) -> Float[Tensor, "n k_plus_1 3"]:
        """All SH bands, degree 0 first."""
        return torch.cat([self.features_dc[:, None], self.features_rest], dim=1)

    @property
    def device(self) -> torch.device:
        return self.means.device

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """Name and tensor, in packing order."""
        return ((name, getattr(self, name)) for name in FIELDS)

    def map(self, function: Callable[[Tensor], Tensor]) -> Gaussians:
        """Apply ``function`` to each of the six tensors."""
        return Gaussians(**{name: function(tensor) for name, tensor in self.items()})

    def zip_map(self, function: Callable[[Tensor, Tensor], Tensor], other: Gaussians) -> Gaussians:
        """Apply ``function`` to each pair of tensors of the two containers."""
        return Gaussians(**{name: function(tensor, getattr(other, name)) for name, tensor in self.items()})

    def __getitem__(self, index: Int[Tensor, " m"] | Tensor | slice) -> Gaussians:
        """The Gaussians at ``index`` (integers, a boolean mask or a slice)."""
        return self.map(lambda tensor: tensor[index])

    def detach(self) -> Gaussians:
        return self.map(torch.Tensor.detach)

    def to(self, *args, **kwargs) -> Gaussians:
        """Move or cast all six tensors, as ``torch.Tensor.to``."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def pack(self) -> Float[Tensor, "n d"]:
        """One row per Gaussian in ``FIELDS`` order; d = 14 + 3 k (59 at SH degree 3)."""
        return torch.cat([tensor.flatten(1) for _, tensor in self.items()], dim=1)

    @classmethod
    def unpack(cls, rows: Float[Tensor, "n d"]) -> Gaussians:
        """The inverse of :meth:`pack`."""
        width, fixed = rows.shape[1], sum(_WIDTHS.values())
        if width < fixed or (width - fixed) % 3:
            raise ValueError(f"Rows have {width} columns; 14 + 3 k are needed (14, 23, 38 or 59).")
        *columns, rest = rows.split((*_WIDTHS.values(), width - fixed), dim=1)
        return cls(*columns, rest.unflatten(1, ((width - fixed) // 3, 3)))

    @staticmethod
    def columns(name: str, sh_bands: int | None = None) -> slice:
        """The columns of one field in the rows of :meth:`pack`.

        Args:
            name: One of ``FIELDS``.
            sh_bands: k, the bands of ``features_rest``, whose slice runs to the last column if it is None. The other
                fields do not need it.

        Raises:
            KeyError: If there is no such field.
        """
        if name not in FIELDS:
            raise KeyError(f"Gaussians have no field {name!r}; choose one of {list(FIELDS)}.")
        start = sum(_WIDTHS[earlier] for earlier in FIELDS[: FIELDS.index(name)])
        if name in _WIDTHS:
            return slice(start, start + _WIDTHS[name])
        return slice(start, None if sh_bands is None else start + 3 * sh_bands)

    def count_non_finite(self) -> dict[str, int]:
        """Number of NaN or infinite entries per field; fields that have none are left out.

        Synchronises with the device once, so that it can be called in every step.
        """
        counts = torch.stack([(~torch.isfinite(tensor)).sum() for _, tensor in self.items()]).tolist()
        return {name: count for name, count in zip(FIELDS, counts, strict=True) if count}

    def all_finite(self, *others: Gaussians) -> bool:
        """Whether no number is NaN or infinite, here and in others on the same device.

        The host waits for the device once, however many there are.
        """
        tensors = [tensor for part in (self, *others) for _, tensor in part.items() if tensor.numel()]
        # The largest magnitude is NaN if any number is; all fields of a GPU take one kernel.
        return not tensors or bool(torch.stack(torch._foreach_norm(tensors, math.inf)).isfinite().all())


assert tuple(field.name for field in fields(Gaussians)) == FIELDS
