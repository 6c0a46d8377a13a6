"""Comparisons with ReSplat fixtures: what was compared, how far off it is, and how far it may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.resplat.gaussians import CameraGaussians
from l2o_splat.rendering.reference import _rotations

ATOL = 1e-5
"""Largest error of single blocks."""


@dataclass
class Line:
    """One quantity."""

    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass
class Report:
    """All quantities by name; of one that is compared several times, the worst comparison counts."""

    lines: dict[str, Line] = field(default_factory=dict)

    def add(self, name: str, error: float, tolerance: float) -> None:
        line = Line(error if error == error else float("inf"), tolerance)
        before = self.lines.get(name)
        if before is None or line.error / max(tolerance, 1e-30) >= before.error / max(before.tolerance, 1e-30):
            self.lines[name] = line

    def close(
        self, name: str, found: Tensor, expected: Tensor, tolerance: float = ATOL, of_magnitude: bool = False
    ) -> None:
        """Largest absolute error, against a tolerance.

        Args:
            of_magnitude: For several blocks in a row the tolerance is for results of up to 1, and grows with the
                largest.
        """
        if found.shape != expected.shape:
            self.add(f"{name} {tuple(found.shape)} != {tuple(expected.shape)}", float("inf"), tolerance)
            return
        if of_magnitude:
            tolerance *= max(1.0, float(expected.abs().max()))
        self.add(name, float((found.double() - expected.double()).abs().max()), tolerance)

    def relative(self, name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
        """Largest relative error."""
        if found.shape != expected.shape:
            self.add(f"{name} {tuple(found.shape)} != {tuple(expected.shape)}", float("inf"), tolerance)
            return
        self.add(name, float(((found.double() - expected) / expected).abs().max()), tolerance)

    def same_rows(self, name: str, found: Tensor, expected: Tensor) -> None:
        """Number of rows that differ as sets."""
        expected = expected.long()
        if found.shape != expected.shape:
            self.add(f"{name} {tuple(found.shape)} != {tuple(expected.shape)}", float("inf"), 0)
            return
        differ = (found.sort(dim=1).values != expected.sort(dim=1).values).any(dim=1)
        self.add(f"{name} (rows that differ)", float(differ.sum()), 0)

    def equal(self, name: str, found: Any, expected: Any) -> None:
        """Anything that must be the same."""
        self.add(name, 0.0 if found == expected else float("inf"), 0)

    def print(self) -> int:
        """Print everything; the exit status."""
        for name, line in self.lines.items():
            print(f"{'ok  ' if line.passed else 'FAIL'} {name:60s} {line.error:.1e} (at most {line.tolerance:.1e})")
        failed = sum(not line.passed for line in self.lines.values())
        print(f"{len(self.lines)} quantities compared, {failed} failed")
        return 1 if failed or not self.lines else 0


def covariances(quats: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances and rotation matrices of quaternions w, x, y, z of any length and linear scales."""
    rotations = _rotations(quats)
    axes = rotations * scales[..., None, :]
    return axes @ axes.mT, rotations


def compare_gaussians(
    report: Report,
    prefix: str,
    found: Gaussians,
    view_quats: Tensor,
    expected: dict[str, Tensor],
    scene: int,
    tolerances: dict[str, float] | None = None,
) -> None:
    """Every field of a fixture's Gaussians with those of the package, converted back.

    Args:
        view_quats: World-from-camera rotation w, x, y, z of each one's source view.
        tolerances: Of the fields; ``ATOL``, and more for large results, where there are none.
    """
    camera = CameraGaussians.from_gaussians(found, view_quats)
    fields = {
        "means": camera.means,
        "covariances": covariances(found.quats, found.scales.exp())[0],
        "harmonics": camera.harmonics,
        "opacities": camera.opacity_logits[:, 0].sigmoid(),
        "scales": camera.scales,
        "rotations": torch.nn.functional.normalize(camera.rotations, dim=1),
        "rotations_unnorm": camera.rotations,
    }
    for name, tensor in fields.items():
        tolerance = tolerances[name] if tolerances else ATOL
        # Means lie up to the far plane away, where float32 has steps of 1e-5.
        report.close(f"{prefix} {name}", tensor, expected[name][scene], tolerance, of_magnitude=tolerances is None)
