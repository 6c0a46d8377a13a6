"""Posing photographs: poses agree with a careful reconstruction, and folders that cannot work are refused early."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2o_splat.scenes.capture import read_capture
from l2o_splat.scenes.photo_copies import copy_names, copy_photographs
from l2o_splat.scenes.photo_folders import PhotosError, find_photographs
from l2o_splat.scenes.photos import pose_photos
from tests.captures import shared_capture


def picture(path: Path, size: tuple[int, int] = (120, 90)) -> None:
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(PhotosError, match=r"no folder .*nowhere"):
        pose_photos(tmp_path / "nowhere", tmp_path / "out")


def test_the_capture_must_lie_outside_the_photographs(photos):
    with pytest.raises(PhotosError, match="lies within"):
        pose_photos(photos, photos / "out")


def test_a_folder_in_use_is_not_touched(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(PhotosError, match="already holds something"):
        pose_photos(photos, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_capture_that_cannot_be_created_is_refused(photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PhotosError, match="cannot be created"):
        pose_photos(photos, tmp_path / "file" / "out")


def test_a_missing_pycolmap_is_explained(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(PhotosError, match=r"pip install 'l2o_splat\[photos\]'"):
        pose_photos(photos, tmp_path / "out")


def test_too_few_readable_photographs_are_counted_and_the_others_named(photos, tmp_path):
    pytest.importorskip("pycolmap")
    picture(photos / "a.png")
    (photos / "b.jpg").write_bytes((photos / "a.png").read_bytes()[:300])
    (photos / "c.heic").write_bytes(b"not for us")
    (photos / "notes.txt").write_text("ignored")
    with pytest.raises(PhotosError, match=r"1 readable photographs.*b\.jpg, c\.heic;"):
        pose_photos(photos, tmp_path / "out", report=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_photographs_in_subfolders_are_found(photos):
    for name in (
        "walk1/IMG_0.JPG",
        "walk0/IMG_0.JPG",
        "walk0/a/b.png",
        ".hidden/a.png",
        "__MACOSX/a.png",
        "masks/a.png",
    ):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        picture(photos / name)
    picture(photos / "._top.png")
    picture(photos / "top.png")
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "again.png").symlink_to(photos / "top.png")
    found = [path.as_posix() for path in find_photographs(photos)]
    assert found == ["again.png", "walk0/IMG_0.JPG", "walk0/a/b.png", "walk1/IMG_0.JPG"]


def test_copies_have_names_of_their_own():
    names = [
        "a.png",
        "walk0/IMG_0.JPG",
        "walk1/IMG_0.JPG",
        "walk1_IMG_0.png",
        "x.jpg",
        "X.png",
        "x.jpg.png",
        "a/b.c.png",
    ]
    copies = copy_names([Path(name) for name in names])
    assert copies[:2] == ["a.jpg", "walk0_IMG_0.jpg"]
    assert len({name.casefold() for name in copies}) == len(names)
    assert copies[-1] == "a_b.c.jpg"


def test_photographs_of_every_folder_and_kind_become_upright_copies(photos, tmp_path):
    """Equal names do not collide; the pixels are those of the pictures as shown."""
    tag = Image.Exif()
    tag[0x112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)
    for folder in ("one", "two"):
        (photos / folder).mkdir()
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(photos / "one/a.png", exif=tag)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(photos / "two/a.png")
    lines: list[str] = []
    copies = copy_photographs(photos, tmp_path / "copies", tmp_path / "masks", 200, lambda *_: None, lines.append)
    assert copies.originals == {"one_a.jpg": "one/a.png", "two_a.jpg": "two/a.png"}
    assert "one (1), two (1)" in lines[0]
    for name in copies.originals:
        with Image.open(tmp_path / "copies" / name) as copy:
            assert copy.getexif().get(0x112) is None
            assert np.abs(np.array(copy.convert("L")).astype(int) - pixels).mean() < 3


def test_cameras_differ_by_size_and_by_what_the_exif_data_say(photos, tmp_path):
    def photograph(name: str, size: tuple[int, int], model: str, focal_length: float) -> None:
        tags = Image.Exif()
        tags[0x110] = model
        tags.get_ifd(0x8769)[0x920A] = focal_length
        Image.new("RGB", size).save(photos / name, exif=tags)

    photograph("a.jpg", (80, 60), "phone", 4.2)
    photograph("b.jpg", (80, 60), "phone", 4.2)
    photograph("zoomed.jpg", (80, 60), "phone", 8.4)
    photograph("tall.jpg", (60, 80), "phone", 4.2)
    photograph("other.jpg", (80, 60), "camera", 4.2)
    copies = copy_photographs(photos, tmp_path / "copies", tmp_path / "masks", 40, lambda *_: None, lambda _: None)
    assert copies.cameras["a.jpg"] == copies.cameras["b.jpg"]
    assert len(set(copies.cameras.values())) == 4


def test_heic_photographs_are_read_where_pillow_heif_is_installed(photos, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 48:] = 255
    for name in "ab":
        pillow_heif.from_pillow(Image.fromarray(pixels)).save(photos / f"{name}.HEIC", quality=95)
    copies = copy_photographs(photos, tmp_path / "copies", tmp_path / "masks", 96, lambda *_: None, lambda _: None)
    assert list(copies.originals.values()) == ["a.HEIC", "b.HEIC"]
    copy = np.array(Image.open(tmp_path / "copies" / "a.jpg").convert("RGB")).astype(int)
    assert np.abs(copy - pixels).mean() < 4


def test_heic_photographs_without_pillow_heif_are_named_with_what_to_do(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in "ab":
        picture(photos / f"{name}.png")
    (photos / "c.heic").write_bytes(b"\0\0\0\x18ftypheic")
    lines: list[str] = []
    copy_photographs(photos, tmp_path / "copies", tmp_path / "masks", 96, lambda *_: None, lines.append)
    assert any("c.heic" in line and "pip install 'l2o_splat[heic]'" in line for line in lines)


def test_unrelated_pictures_cannot_be_posed(photos, tmp_path):
    pytest.importorskip("pycolmap")
    for name in ("a", "bb", "ccc"):
        picture(photos / f"{name}.png")
    with pytest.raises(PhotosError, match="None of the 3 photographs"):
        pose_photos(photos, tmp_path / "out", report=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.fixture(scope="module")
def posed(tmp_path_factory):
    """Eight neighbouring photographs of the fox, posed at 480 pixels."""
    pytest.importorskip("pycolmap")
    fox = shared_capture("fox")
    folder = tmp_path_factory.mktemp("fox")
    (folder / "photos").mkdir()
    for path in sorted((fox / "images").iterdir())[:8]:
        shutil.copy(path, folder / "photos" / path.name)
    lines: list[str] = []
    result = pose_photos(folder / "photos", folder / "out", max_size=480, report=lines.append)
    return folder, result, lines


def test_most_photographs_are_posed_and_reported(posed):
    folder, result, lines = posed
    assert result.of == 8
    assert result.registered >= 7
    assert result.points > 300
    assert result.error < 1
    assert f"{result.registered} of 8 photographs have a pose" in "\n".join(lines)
    assert lines[-1].startswith("WARNING") == bool(result.missing)
    assert sorted(path.name for path in folder.iterdir()) == ["out", "photos"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "images",
        "sparse",
        "sparse_pc.ply",
        "transforms.json",
    ]
    assert len(list((folder / "photos").iterdir())) == 8


def test_poses_agree_with_the_reference(posed):
    folder, result, _ = posed
    found = read_capture(folder / "out")
    assert max(found.views.cameras.width, found.views.cameras.height) <= 490
    names = [
        Path(frame["file_path"]).name for frame in json.loads((folder / "out/transforms.json").read_text())["frames"]
    ]
    assert len(names) == result.registered
    reference = {
        Path(frame["file_path"]).name: np.array(frame["transform_matrix"])
        for frame in json.loads((shared_capture("fox") / "transforms.json").read_text())["frames"]
    }
    theirs = np.stack([reference[name] for name in names])
    a, b = found.views.cameras.centres.double().numpy(), theirs[:, :3, 3]
    # Least-squares similarity (Umeyama 1991) from our centres to theirs.
    u, singular, vt = np.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
    flip = np.diag([1, 1, np.linalg.det(u @ vt)])
    rotation = u @ flip @ vt
    scale = np.trace(flip @ np.diag(singular)) / ((a - a.mean(0)) ** 2).sum()
    residual = scale * (a - a.mean(0)) @ rotation.T - (b - b.mean(0))
    extent = np.linalg.norm(b - b.mean(0), axis=1).max()
    assert np.sqrt((residual**2).sum(1).mean()) < 0.02 * extent
    ours = found.views.cameras.viewmats[:, :3, :3].double().numpy().transpose(0, 2, 1) * [1, -1, -1]
    angles = np.einsum("vij,vij->v", rotation @ ours, theirs[:, :3, :3])
    assert np.degrees(np.arccos(np.clip((angles - 1) / 2, -1, 1))).max() < 1


def test_photographs_are_numbered_by_name(posed):
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(posed[0] / "out" / "sparse" / "0")
    names = [model.images[i].name for i in sorted(model.images)]
    assert names == sorted(names)
    assert [camera.model.name for camera in model.cameras.values()] == ["PINHOLE"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_nerfstudio_reads_both_formats_alike(posed, split):
    colmap = pytest.importorskip("nerfstudio.data.dataparsers.colmap_dataparser")
    nerfstudio = pytest.importorskip("nerfstudio.data.dataparsers.nerfstudio_dataparser")
    out = posed[0] / "out"
    options = {"data": out, "downscale_factor": 1, "eval_mode": "interval", "auto_scale_poses": False}
    options |= {"orientation_method": "none", "center_method": "none"}
    a = colmap.ColmapDataParserConfig(
        **options, colmap_path=Path("sparse/0"), assume_colmap_world_coordinate_convention=False
    )
    b = nerfstudio.NerfstudioDataParserConfig(**options, load_3D_points=True)
    a, b = a.setup().get_dataparser_outputs(split), b.setup().get_dataparser_outputs(split)
    assert a.image_filenames == b.image_filenames
    assert all(path.is_file() for path in a.image_filenames)
    torch.testing.assert_close(a.cameras.camera_to_worlds, b.cameras.camera_to_worlds, rtol=0, atol=1e-4)
    torch.testing.assert_close(a.cameras.fx, b.cameras.fx)
    torch.testing.assert_close(a.cameras.cy, b.cameras.cy)
    mine, theirs = (outputs.metadata["points3D_xyz"].sort(dim=0).values for outputs in (a, b))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
