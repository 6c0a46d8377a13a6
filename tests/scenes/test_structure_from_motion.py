"""Posing keeps as many photographs as it can: models are merged, global mapping steps in, loops are closed."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from l2o_splat.scenes.merged_models import merged, num_posed
from l2o_splat.scenes.photo_copies import Copies
from l2o_splat.scenes.photo_folders import PhotosError
from l2o_splat.scenes.posing_phases import no_progress
from l2o_splat.scenes.structure_from_motion import StructureFromMotion, import_images, pairs_in_order

pycolmap = pytest.importorskip("pycolmap")
pycolmap.logging.minloglevel = 3


@pytest.fixture
def synthetic(tmp_path):
    """Twelve cameras with exact matches in ``database.db``, and their true model."""
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, 12
    options.num_points3D, options.camera_has_prior_focal_length = 150, True
    with pycolmap.Database.open(tmp_path / "database.db") as database:
        truth = pycolmap.synthesize_dataset(options, database)
    (tmp_path / "images").mkdir()
    return tmp_path, truth


def part(truth, kept: range):
    """A model of its own units and axes that poses the images at these places alone."""
    model = pycolmap.Reconstruction(truth)
    for place, i in enumerate(sorted(truth.reg_image_ids())):
        if place not in kept:
            model.deregister_frame(model.images[i].frame_id)
    rotation = pycolmap.Rotation3d(np.array([0.1, 0.2, 0.3, 0.9]) / np.linalg.norm([0.1, 0.2, 0.3, 0.9]))
    model.transform(pycolmap.Sim3d(len(kept) / 5, rotation, np.array([1.0, 2.0, 3.0])))
    return model


def started(folder, truth, progress=no_progress) -> StructureFromMotion:
    """The work on a synthetic database, of which features and matches are done."""
    names = [truth.images[i].name for i in sorted(truth.images)]
    copies = Copies({name: name for name in names}, dict.fromkeys(names, 0))
    return StructureFromMotion(pycolmap, folder, copies, num_threads=1, progress=progress, report=print)


def assert_same_shape(model, truth):
    """The cameras stand to each other as the true ones do, up to scale."""
    ids = sorted(truth.reg_image_ids())
    found, true = (np.array([each.images[i].projection_center() for i in ids]) for each in (model, truth))
    distances = [
        [np.linalg.norm(centres[a] - centres[b]) for a, b in combinations(range(len(ids)), 2)]
        for centres in (found, true)
    ]
    ratio = np.divide(*distances)
    np.testing.assert_allclose(ratio, np.median(ratio), rtol=0.02)


def test_models_that_share_photographs_become_one(synthetic):
    folder, truth = synthetic
    models = [part(truth, range(0, 7)), part(truth, range(4, 12))]
    (model,) = merged(pycolmap, models, folder / "database.db", folder / "images", folder / "merged", 1)
    assert num_posed(model) == 12
    assert model.compute_mean_reprojection_error() < 0.5
    assert_same_shape(model, truth)


def test_models_with_nothing_in_common_stay_apart(synthetic):
    folder, truth = synthetic
    models = [part(truth, range(0, 6)), part(truth, range(6, 12))]
    assert merged(pycolmap, models, folder / "database.db", folder / "images", folder / "merged", 1) == []


def test_global_mapping_steps_in_where_incremental_mapping_loses_photographs(synthetic, monkeypatch):
    folder, truth = synthetic
    monkeypatch.setattr(pycolmap, "incremental_mapping", lambda *_, **__: {0: part(truth, range(0, 5))})
    calls = []
    model = started(folder, truth, lambda *call: calls.append(call)).map()
    assert num_posed(model) == 12
    assert_same_shape(model, truth)
    assert ("mapping", 1.0) in calls and calls[-1] == ("global mapping", 1.0)


def test_a_photograph_that_mapping_left_out_is_added_at_the_end(synthetic, monkeypatch):
    folder, truth = synthetic
    work = started(folder, truth)
    mapping, loses = pycolmap.incremental_mapping, part(truth, range(0, 11))

    def first_loses_one(*arguments, input_path=None, **options):
        return mapping(*arguments, input_path=input_path, **options) if input_path else {0: loses}

    monkeypatch.setattr(pycolmap, "incremental_mapping", first_loses_one)
    monkeypatch.setattr(pycolmap, "global_mapping", lambda *_, **__: {})
    model = work.map()
    assert num_posed(model) == 12
    assert_same_shape(model, truth)


def test_a_model_is_kept_as_it_is_if_nothing_can_be_added_to_it(synthetic, monkeypatch):
    folder, truth = synthetic
    most = part(truth, range(0, 11))
    found = lambda *_, input_path=None, **__: {} if input_path else {0: most}  # noqa: E731
    monkeypatch.setattr(pycolmap, "incremental_mapping", found)
    monkeypatch.setattr(pycolmap, "global_mapping", lambda *_, **__: {})
    assert num_posed(started(folder, truth).map()) == 11


def test_a_model_without_a_firm_pose_is_none(synthetic, monkeypatch):
    folder, truth = synthetic
    empty = lambda *_, **__: {0: part(truth, range(0))}  # noqa: E731
    monkeypatch.setattr(pycolmap, "incremental_mapping", empty)
    monkeypatch.setattr(pycolmap, "global_mapping", empty)
    with pytest.raises(PhotosError, match="None of the 12 photographs could be posed"):
        started(folder, truth).map()


def test_photographs_of_one_camera_share_its_intrinsics_and_are_numbered_by_name(tmp_path):
    (tmp_path / "images").mkdir()
    cameras = {}
    for name, size in (("a", (64, 48)), ("b", (48, 64)), ("c", (64, 48)), ("d", (48, 64))):
        Image.new("RGB", size).save(tmp_path / "images" / f"{name}.jpg")
        cameras[f"{name}.jpg"] = size
    assert import_images(pycolmap, tmp_path / "database.db", tmp_path / "images", cameras) == [1, 2, 3, 4]
    with pycolmap.Database.open(tmp_path / "database.db") as database:
        images = database.read_all_images()
        sizes = {camera.camera_id: (camera.width, camera.height) for camera in database.read_all_cameras()}
    assert [image.name for image in sorted(images, key=lambda image: image.image_id)] == sorted(cameras)
    assert len(sizes) == 2
    assert all(sizes[image.camera_id] == cameras[image.name] for image in images)


def test_sequential_pairs_follow_the_way_and_close_its_loops():
    names = [f"{i:04d}" for i in range(300)]
    pairs = pairs_in_order(names)
    assert len(pairs) == len(set(pairs)) < 0.15 * 300 * 299 / 2
    assert all(a < b for a, b in pairs)
    neighbours = {(int(a), int(b)) for a, b in pairs}
    assert all((i, i + step) in neighbours for i in range(280) for step in (1, 5, 10, 16))
    assert any(b - a > 250 for a, b in neighbours)
    assert set(pairs_in_order(names[:8])) == set(combinations(names[:8], 2))
