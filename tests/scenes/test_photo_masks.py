"""Masks beside photographs: found by either convention, turned like their photographs, refused if they do not fit."""

import numpy as np
import pytest
from PIL import Image

from l2o_splat.scenes.photo_copies import copy_photographs
from l2o_splat.scenes.photo_folders import PhotosError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "walk").mkdir(parents=True)
    tag = Image.Exif()
    tag[0x112] = 6
    Image.new("RGB", (80, 60), "gray").save(folder / "a.JPG")
    Image.new("RGB", (80, 60), "gray").save(folder / "walk" / "b.jpg", exif=tag)
    return folder


def left_half(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 255)
    mask.paste(0, (0, 0, size[0] // 2, size[1]))
    return mask


def copy(photos, tmp_path):
    lines = []
    copies = copy_photographs(photos, tmp_path / "copies", tmp_path / "kept", 40, lambda *_: None, lines.append)
    return copies, lines


def kept(tmp_path, name: str) -> np.ndarray:
    return np.array(Image.open(tmp_path / "kept" / f"{name}.png"))


@pytest.mark.parametrize("place", ["photos/masks", "masks"])
def test_masks_are_found_by_both_conventions(photos, tmp_path, place):
    masks = tmp_path / place
    (masks / "walk").mkdir(parents=True)
    left_half((80, 60)).save(masks / "a.JPG.png")
    left_half((60, 80)).save(masks / "walk" / "b.png")
    copies, lines = copy(photos, tmp_path)
    assert copies.masked
    assert not any(line.startswith("WARNING") for line in lines)
    for name, size in (("a.jpg", (40, 30)), ("walk_b.jpg", (30, 40))):
        np.testing.assert_array_equal(kept(tmp_path, name), np.array(left_half(size)))


def test_a_mask_of_the_stored_pixels_is_turned_with_its_photograph(photos, tmp_path):
    (photos / "masks" / "walk").mkdir(parents=True)
    left_half((80, 60)).save(photos / "masks" / "walk" / "b.png")
    copies, lines = copy(photos, tmp_path)
    # The orientation turns the left side of the stored picture to the top.
    np.testing.assert_array_equal(kept(tmp_path, "walk_b.jpg"), np.repeat([[0], [255]], 20, axis=0).repeat(30, axis=1))
    assert copies.masked and (kept(tmp_path, "a.jpg") == 255).all()
    assert any(line.startswith("WARNING") and "a.JPG" in line for line in lines)


def test_a_mask_of_another_size_is_refused(photos, tmp_path):
    (photos / "masks").mkdir()
    left_half((40, 30)).save(photos / "masks" / "a.png")
    with pytest.raises(PhotosError, match=r"a\.png is 40 x 30 pixels, its photograph a\.JPG 80 x 60"):
        copy(photos, tmp_path)


def test_photographs_without_masks_have_none(photos, tmp_path):
    copies, _ = copy(photos, tmp_path)
    assert not copies.masked and not (tmp_path / "kept").exists()
