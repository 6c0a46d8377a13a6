"""Photographs are turned as those were from which the poses were made."""

import numpy as np
import pytest

from l2o_splat.scenes.orientation import PosedHeaders, Turning, decide_turning
from l2o_splat.scenes.pixels import PhotographHeader


def around(degrees: float) -> np.ndarray:
    """World-from-camera rotation of an upright camera (y up), turned about the upright axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rolled(rotation: np.ndarray, quarter_turns: int) -> np.ndarray:
    """The same camera, rolled counterclockwise about its viewing axis."""
    c, s = round(np.cos(quarter_turns * np.pi / 2)), round(np.sin(quarter_turns * np.pi / 2))
    return rotation @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def decide(orientation, rotation, size=(60, 40), camera=(60, 40), others=4):
    headers = [PhotographHeader(size, orientation, 1)] + [PhotographHeader(camera, 1, 1)] * others
    rotations = np.stack([rotation, *(around(30 * i) for i in range(others))])
    return decide_turning(PosedHeaders(headers, [camera] * (1 + others), rotations))[0]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_size_of_the_camera_decides(orientation):
    assert decide(orientation, around(0)) is Turning.FITS_STORED
    assert decide(orientation, around(0), camera=(40, 60)) is Turning.FITS_TURNED
    assert not Turning.FITS_STORED.upright and Turning.FITS_TURNED.upright


# The scene's upright is to the left in a picture that must be turned clockwise (6), so the camera was rolled clockwise.
@pytest.mark.parametrize(("orientation", "roll"), [(3, 2), (6, -1), (8, 1)])
def test_the_poses_decide(orientation, roll):
    square = {"size": (50, 50), "camera": (50, 50)}
    assert decide(orientation, around(20), **square) is Turning.POSED_TURNED
    assert decide(orientation, rolled(around(20), roll), **square) is Turning.POSED_STORED


def test_photographs_elsewhere_in_the_capture_help():
    alone = PosedHeaders([PhotographHeader((60, 40), 3, 1)], [(60, 40)], rolled(around(0), 2)[None])
    rest = PosedHeaders([PhotographHeader((60, 40), 1, 1)], [(60, 40)], around(50)[None])
    assert decide_turning(alone) == [Turning.DOUBTFUL]
    assert decide_turning(alone, [rest]) == [Turning.POSED_STORED]


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_doubt_turns(orientation):
    assert decide(orientation, around(0), others=0) is Turning.DOUBTFUL
    assert Turning.DOUBTFUL.upright


def test_cameras_without_a_common_upright_decide_nothing():
    down = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    headers = [PhotographHeader((60, 40), orientation, 1) for orientation in (3, 1, 1, 1, 1)]
    rotations = np.stack([down, *(rolled(down, i) for i in range(4))])
    assert decide_turning(PosedHeaders(headers, [(60, 40)] * 5, rotations))[0] is Turning.DOUBTFUL


def test_no_tag_and_broken_poses():
    assert decide(1, around(0)) is Turning.NO_TAG
    assert decide(3, np.full((3, 3), np.nan)) is Turning.DOUBTFUL


@pytest.mark.parametrize("roll", [0, 2])
def test_a_pose_that_tells_nothing_follows_the_others(roll):
    down = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    headers = [PhotographHeader((60, 40), orientation, 1) for orientation in (3, 3, 1, 1)]
    rotations = np.stack([down, rolled(around(10), roll), around(20), around(30)])
    reasons = decide_turning(PosedHeaders(headers, [(60, 40)] * 4, rotations))
    assert reasons[0] is reasons[1] is (Turning.POSED_STORED if roll else Turning.POSED_TURNED)
