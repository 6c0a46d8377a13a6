"""Reads scenes in the PLY layout of the original 3DGS code, as ``ns-export gaussian-splat`` writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyParseError

from l2o_splat.gaussians import Gaussians


def read_gaussian_ply(path: Path) -> Gaussians:
    """Gaussians of a splat PLY: log scales, logit opacities, quaternions w, x, y, z, SH channel by channel.

    Raises:
        ValueError: when the file is no PLY, or its vertices lack the properties of a splat.
    """
    try:
        vertices = PlyData.read(path)["vertex"]
    except (PlyParseError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as a PLY with vertices ({error}); export it again.") from error
    names = {property.name for property in vertices.properties}
    num_rest = sum(name.startswith("f_rest_") for name in names)
    columns = {
        "means": ["x", "y", "z"],
        "scales": [f"scale_{i}" for i in range(3)],
        "quats": [f"rot_{i}" for i in range(4)],
        "opacities": ["opacity"],
        "features_dc": [f"f_dc_{i}" for i in range(3)],
        "features_rest": [f"f_rest_{i}" for i in range(num_rest)],
    }
    missing = [name for group in columns.values() for name in group if name not in names]
    if missing or num_rest % 3:
        raise ValueError(
            f"{path} is no Gaussian splat (missing {missing or 'SH bands'}); export with spherical harmonics, as "
            "`ns-export gaussian-splat` does by default."
        )
    tensors = {
        field: torch.from_numpy(
            np.stack([np.asarray(vertices[name], np.float32) for name in group], axis=1)
            if group
            else np.zeros((vertices.count, 0), np.float32)
        )
        for field, group in columns.items()
    }
    # Bands of one channel stand together in the file.
    tensors["features_rest"] = tensors["features_rest"].unflatten(1, (3, num_rest // 3)).mT.contiguous()
    return Gaussians(**tensors)
