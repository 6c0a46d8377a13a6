"""How frames come to the size of the papers, and that cameras follow to the pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.folder import ChunkFolder
from l2o_splat.scenes.chunks.resolution import covering_size, fit_cameras, fit_image
from l2o_splat.views import PinholeCameras
from tests.scenes.chunk_files import encoded, entry, write_folder


@pytest.mark.parametrize(
    ("stored", "size", "reduced"),
    [
        ((360, 640), (256, 256), (256, 455)),
        ((360, 640), (256, 448), (256, 455)),
        ((540, 960), (256, 448), (256, 455)),
        ((540, 960), (512, 960), (540, 960)),
        ((960, 540), (256, 448), (796, 448)),
    ],
)
def test_the_side_that_fits_more_tightly_sets_the_scale(stored, size, reduced):
    assert covering_size(stored[1], stored[0], size) == (reduced[1], reduced[0])


def test_pixels_are_those_of_lanczos_on_8_bits_and_a_central_crop(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    scene = entry("a", 1) | {"images": [encoded(pixels)]}
    views = ChunkFolder(write_folder(tmp_path, [scene])).scene("a").decode([0], (64, 64))
    expected = np.asarray(Image.fromarray(pixels).resize((114, 64), Image.Resampling.LANCZOS))[:, 25:89]
    assert torch.equal((views.images[0] * 255).round().byte(), torch.from_numpy(expected.copy()))
    assert (views.cameras.height, views.cameras.width) == (64, 64)


@pytest.mark.parametrize("size", [(60, 60), (45, 77), (88, 150), (90, 160)])
def test_a_point_stays_on_the_pixel_that_shows_it(size):
    """A bright spot at the projection of a point is at its projection by the fitted camera too."""
    Ks = torch.tensor([[[150.0, 0, 71.0], [0, 140.0, 50.0], [0, 0, 1]]])
    cameras = PinholeCameras(torch.eye(4)[None], Ks, 160, 90)
    spot = cameras.unproject(torch.tensor([[85.5, 40.5]]), torch.tensor([[2.0]]))[0]
    y, x = np.mgrid[:90, :160] + 0.5
    bright = 255 * np.exp(-((x - 85.5) ** 2 + (y - 40.5) ** 2) / (2 * 4.0**2))
    image = np.asarray(fit_image(Image.fromarray(bright.round().astype(np.uint8)), size)).astype(float)
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    found = np.array([(image * columns).sum(), (image * rows).sum()]) / image.sum()
    fitted = fit_cameras(cameras, size)
    assert (fitted.height, fitted.width) == image.shape == size
    assert fitted.project(spot)[0][0, 0].numpy() == pytest.approx(found, abs=0.05)


def test_images_are_never_enlarged(tmp_path):
    with pytest.raises(ChunkError, match=r"Images of 24 x 40 pixels .* cannot be reduced to 24 x 41"):
        ChunkFolder(write_folder(tmp_path, [entry("a")])).scene("a").decode([0], (24, 41))
