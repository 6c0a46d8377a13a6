"""The world frame of gsplat's examples, in which Learn2Splat ran LLFF and DTU (arXiv 2605.15760, supplement)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from l2o_splat.bench.suites.posed import PosedScene


def normalised(scene: PosedScene) -> PosedScene:
    """The scene with its up axis along z, the focus of its cameras at the origin and their median distance 1.

    Points, if there are any, then turn it so that their principal axes are those of the world.
    """
    moved = _moved(scene, *_similarity(scene))
    if moved.xyz is None or len(moved.xyz) < 3:
        return moved
    return _moved(moved, *_principal_axes(moved.xyz), 1.0)


def _moved(
    scene: PosedScene, rotation: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, " 3"], scale: float
) -> PosedScene:
    """The scene with every point x at ``scale * (rotation @ x + shift)``."""
    centres = scale * (scene.centres @ rotation.T + shift)
    viewmats = scene.viewmats.copy()
    viewmats[:, :3, :3] = scene.viewmats[:, :3, :3] @ rotation.T
    viewmats[:, :3, 3] = -np.einsum("vij,vj->vi", viewmats[:, :3, :3], centres)
    xyz = None if scene.xyz is None else scale * (scene.xyz @ rotation.T + shift)
    return replace(scene, viewmats=viewmats, xyz=xyz)


def _similarity(scene: PosedScene) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"], float]:
    rotations = scene.viewmats[:, :3, :3]
    up = -rotations[:, 1].mean(axis=0)  # Rows of a camera-from-world rotation are the axes of the camera.
    rotation = _turn(up / np.linalg.norm(up), np.array([0.0, 0.0, 1.0]))
    centres, forward = scene.centres @ rotation.T, rotations[:, 2] @ rotation.T
    # The point of each optical axis that is nearest to the origin; their median is the focus.
    nearest = centres - (forward * centres).sum(axis=1, keepdims=True) * forward
    shift = -np.median(nearest, axis=0)
    scale = 1 / np.median(np.linalg.norm(centres + shift, axis=1))
    return rotation, shift, float(scale)


def _turn(source: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """The shortest rotation from one unit vector to another."""
    axis, cosine = np.cross(source, target), float(source @ target)
    if cosine <= -1 + 1e-9:
        return np.diag([-1.0, 1.0, -1.0])  # Half a turn; the vectors lie along z here.
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)


def _principal_axes(xyz: Float[np.ndarray, "p 3"]) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """Turn the directions of largest to least spread onto x, y and z, with the median at the origin."""
    centre = np.median(xyz, axis=0)
    spread, axes = np.linalg.eigh(np.cov(xyz - centre, rowvar=False))
    rotation = axes[:, np.argsort(spread)[::-1]].T.copy()
    if np.linalg.det(rotation) < 0:
        rotation[0] *= -1
    return rotation, -rotation @ centre
