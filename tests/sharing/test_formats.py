"""What is read from a file draws the images of what was written, as far as the format rounds."""

import pytest
import torch

from l2o_splat.gaussians import FIELDS
from l2o_splat.metrics import psnr
from l2o_splat.rendering import render
from l2o_splat.sharing import SharingError, cut_harmonics, read_splat, write_splat
from tests.sharing.scenes import askew_scene


@pytest.mark.parametrize(("suffix", "least"), [(".ply", 100), (".spz", 36), (".sog", 40)])
@pytest.mark.parametrize("degree", [0, 3])
def test_a_file_draws_the_scene_that_was_written(tmp_path, suffix, least, degree):
    gaussians, cameras = askew_scene(degree=degree)
    # Lengths of quaternions mean nothing, and are not those of a file.
    gaussians = gaussians.map(lambda tensor: 3 * tensor if tensor is gaussians.quats else tensor)
    path = tmp_path / f"splat{suffix}"
    write_splat(gaussians, path)
    read = read_splat(path)
    assert len(read) == len(gaussians) and read.sh_degree == degree
    drawn, written = (render(scene, cameras).rgb.clamp(0, 1) for scene in (read, gaussians))
    for image, expected in zip(drawn, written, strict=True):
        assert psnr(image, expected) > least


def test_a_ply_is_exact_and_the_others_are_small(tmp_path):
    gaussians, _ = askew_scene(n=2000)
    sizes = {}
    for suffix in (".ply", ".spz", ".sog"):
        write_splat(gaussians, tmp_path / f"splat{suffix}")
        sizes[suffix] = (tmp_path / f"splat{suffix}").stat().st_size
    read = read_splat(tmp_path / "splat.ply")
    for name in FIELDS:
        assert torch.equal(getattr(read, name), getattr(gaussians, name))
    assert max(sizes[".spz"], sizes[".sog"]) < 0.3 * sizes[".ply"]


@pytest.mark.parametrize("suffix", [".spz", ".sog"])
def test_opacities_beyond_the_range_of_a_byte_stay_finite(tmp_path, suffix):
    gaussians, _ = askew_scene(n=20, degree=0)
    gaussians.opacities[:10], gaussians.opacities[10:] = 50.0, -50.0
    write_splat(gaussians, tmp_path / f"splat{suffix}")
    opacities = read_splat(tmp_path / f"splat{suffix}").opacities.sigmoid().flatten().sort().values
    assert opacities.isfinite().all() and (opacities[:10] < 0.005).all() and (opacities[10:] > 0.995).all()


@pytest.mark.parametrize(
    ("suffix", "change", "expected"),
    [
        (".obj", lambda scene: scene, r"is not called \*\.ply, \*\.spz, \*\.sog"),
        (".sog", lambda scene: scene[:0], "holds 0 Gaussians"),
        (".spz", lambda scene: scene.map(lambda tensor: tensor * torch.nan), "NaN or infinite numbers in means"),
        (".spz", lambda scene: scene.map(lambda t: t + 5000 if t is scene.means else t), "coordinates below 2048"),
        (".spz", lambda scene: scene.map(lambda t: t - 9 if t is scene.scales else t), "multiples of 0.00024; write a"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_the_old_file_stays(tmp_path, suffix, change, expected):
    gaussians, _ = askew_scene(n=20, degree=0)
    path = tmp_path / f"splat{suffix}"
    path.write_text("old")
    with pytest.raises(SharingError, match=expected):
        write_splat(change(gaussians), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_degree_that_only_a_ply_holds(tmp_path):
    gaussians, _ = askew_scene(n=20, degree=4)
    write_splat(gaussians, tmp_path / "splat.ply")
    with pytest.raises(SharingError, match="degree 4, and .sog holds 3 at most"):
        write_splat(gaussians, tmp_path / "splat.sog")
    write_splat(cut_harmonics(gaussians, 3), tmp_path / "splat.sog")
    assert read_splat(tmp_path / "splat.ply").sh_degree == 4 and read_splat(tmp_path / "splat.sog").sh_degree == 3


@pytest.mark.parametrize("suffix", [".spz", ".sog"])
def test_a_broken_file_is_named(tmp_path, suffix):
    (tmp_path / f"splat{suffix}").write_bytes(b"no splat")
    with pytest.raises(SharingError, match=f"splat{suffix} cannot be read"):
        read_splat(tmp_path / f"splat{suffix}")
