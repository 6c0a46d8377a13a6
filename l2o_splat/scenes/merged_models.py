"""Models of structure from motion: how many photographs they pose, and merging those that share photographs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

_FEWEST_POINTS = 15
"""A pose that fewer points of the cloud hold is left out."""
_FEWEST_SHARED = 3
"""Models are merged if they share this many photographs."""


def num_posed(model) -> int:
    """Photographs with a pose."""
    return model.num_reg_images()


def without_loose_poses(model):
    """The model without the poses that hardly any point holds, which may be anywhere."""
    for image in list(model.images.values()):
        if image.has_pose and image.num_points3D < _FEWEST_POINTS:
            model.deregister_frame(image.frame_id)
    return model


def merged(pycolmap, models: list, database: Path, images: Path, folder: Path, num_threads: int) -> list:
    """The largest model joined by all that share photographs with it, triangulated and adjusted anew.

    Args:
        pycolmap: The module.
        models: Models of one database.
        database: Its features and matches.
        images: Folder of its images.
        folder: New folder for the result.
        num_threads: Threads of COLMAP; -1 is one for each core.

    Returns:
        One model, or none if no other model has something to add.
    """
    if len(models) < 2:
        return []
    largest, *others = sorted(models, key=num_posed, reverse=True)
    poses = {i: largest.images[i].cam_from_world() for i in largest.reg_image_ids()}
    joined = _joined(pycolmap, largest, poses, others)
    if not joined:
        return []
    with closing(pycolmap.Database.open(database)) as opened:
        cache = pycolmap.DatabaseCache.create(opened, pycolmap.DatabaseCacheOptions())
    model = pycolmap.Reconstruction()
    model.load(cache)
    for camera_id in model.cameras:
        known = next((each for each in (largest, *others) if camera_id in each.cameras), None)
        if known is not None:
            model.cameras[camera_id].params = known.cameras[camera_id].params
    for image_id, pose in poses.items():
        frame = model.frame(model.image(image_id).frame_id)
        frame.rig_from_world = pose
        model.register_frame(frame.frame_id)
    folder.mkdir()
    triangulation = pycolmap.IncrementalPipelineOptions()
    triangulation.num_threads = num_threads
    model = pycolmap.triangulate_points(model, database, images, folder, options=triangulation)
    adjustment = pycolmap.BundleAdjustmentOptions()
    adjustment.ceres.solver_options.num_threads = num_threads
    pycolmap.bundle_adjustment(model, adjustment)
    return [without_loose_poses(model)]


def _joined(pycolmap, largest, poses: dict, others: list) -> bool:
    """Add to ``poses`` what models that share photographs with the largest one pose besides; whether any does."""
    before = len(poses)
    for other in others:
        shared = [i for i in other.reg_image_ids() if i in largest.images and largest.images[i].has_pose]
        if len(shared) < _FEWEST_SHARED:
            continue
        largest_from_other = pycolmap.align_reconstructions_via_reprojections(other, largest)
        if largest_from_other is None:
            continue
        moved = pycolmap.Reconstruction(other)
        moved.transform(largest_from_other)
        for i in moved.reg_image_ids():
            poses.setdefault(i, moved.images[i].cam_from_world())
    return len(poses) > before
