"""Folders of data sets to captures: views, sizes and frames as the papers say, and a sentence for what is missing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.catalogue import SUITES
from l2o_splat.bench.suites.suite import Cropped, SpreadContext, Window
from l2o_splat.bench.suites.work import PaperOptions, find_work
from l2o_splat.scenes.capture import read_capture
from l2o_splat.scenes.chunks.view_index import ViewIndex, write_view_index
from tests.bench import data_sets

EVERY_8TH = [0, 8, 16]


def no_words(text: str) -> None:
    raise AssertionError(text)


def captures_of(suite, folder, out, index=None, **options):
    """Capture folders of a suite by scene."""
    dataset = SUITES[suite].dataset if isinstance(suite, str) else suite.dataset
    options = PaperOptions((suite,), (f"{dataset}={folder}",), (f"{suite}={index}",) if index else (), **options)
    (work,) = find_work(options, [], False, no_words)
    return {source.scene: Path(source.data) for source in work.captures(out, lambda name: None)}


def smaller(monkeypatch, name, **changes):
    """The suite with a split or a size that suits tiny photographs."""
    monkeypatch.setitem(SUITES, name, replace(SUITES[name], **changes))


def transforms(folder: Path) -> dict:
    return json.loads((folder / "transforms.json").read_text())


def numbers(names: list[str]) -> list[int]:
    """Frame numbers in file names."""
    return [int("".join(filter(str.isdigit, Path(name).stem))) for name in names]


def split_of(folder: Path) -> tuple[list[int], list[int]]:
    meta = transforms(folder)
    assert meta["val_filenames"] == meta["test_filenames"]
    return numbers(meta["train_filenames"]), numbers(meta["test_filenames"])


def sizes_of(folder: Path) -> set[tuple[int, int]]:
    found = set()
    for frame in transforms(folder)["frames"]:
        with Image.open(folder / frame["file_path"]) as image:
            found.add(image.size)
    return found


def distances(centres) -> np.ndarray:
    return np.linalg.norm(centres[:, None] - centres[None], axis=2)


def assert_same_views(folder: Path, of, views: list[int], scale: float = 1.0) -> None:
    """The capture's points lie in its photographs where they lie in those of the source, scaled by a factor."""
    found, expected = read_capture(folder), of.views.cameras[views]
    assert len(found.points) == len(of.points)
    pixels, _ = found.views.cameras.project(found.points.xyz)
    by_source, depth = expected.project(of.points.xyz)
    seen = expected.inside(by_source, depth)
    assert seen.any(dim=1).all()
    torch.testing.assert_close(pixels[seen], scale * by_source[seen], rtol=1e-3, atol=0.05)


def test_mipnerf360_takes_the_copies_of_a_quarter_and_holds_out_every_8th(tmp_path):
    folder = data_sets.write_mipnerf360(tmp_path / "360_v2")
    found = captures_of("mipnerf360", folder, tmp_path / "out")
    assert list(found) == ["mipnerf360/garden", "mipnerf360/kitchen"]
    garden = found["mipnerf360/garden"]
    assert split_of(garden) == ([view for view in range(17) if view % 8], EVERY_8TH)
    assert sizes_of(garden) == {(16, 12)}
    # Nothing is copied.
    assert not (garden / "images").exists()
    assert {Path(frame["file_path"]).parent for frame in transforms(garden)["frames"]} == {folder / "garden/images_4"}
    assert_same_views(garden, data_sets.capture(0), list(range(17)), 0.25)


def test_photographs_are_reduced_where_there_are_no_copies(tmp_path):
    folder = data_sets.write_mipnerf360(tmp_path / "360_v2", ("garden",))
    for path in (folder / "garden/images_4").iterdir():
        path.unlink()
    garden = captures_of("mipnerf360", folder, tmp_path / "out")["mipnerf360/garden"]
    assert sizes_of(garden) == {(16, 12)} and (garden / "images").is_dir()
    assert_same_views(garden, data_sets.capture(0), list(range(17)), 0.25)


def test_scenes_of_the_paper_go_before_others_and_can_be_chosen(tmp_path):
    folder = data_sets.write_mipnerf360(tmp_path / "360_v2", ("garden", "my_room"))
    assert list(captures_of("mipnerf360", folder, tmp_path / "out")) == ["mipnerf360/garden"]
    chosen = captures_of("mipnerf360", folder, tmp_path / "out", scenes=("my_room",))
    assert list(chosen) == ["mipnerf360/my_room"]
    with pytest.raises(BenchError, match="--scenes attic: .* has garden, my_room"):
        captures_of("mipnerf360", folder, tmp_path / "out", scenes=("attic",))


def test_llff_reads_models_with_distortion_and_poses_bounds_and_is_normalised(tmp_path):
    folder = data_sets.write_llff(tmp_path / "nerf_llff_data")
    found = captures_of("llff", folder, tmp_path / "out")
    assert list(found) == ["llff/fern", "llff/trex"]
    fern, trex = transforms(found["llff/fern"]), transforms(found["llff/trex"])
    assert {frame["k1"] for frame in fern["frames"]} == {0.02}
    assert sizes_of(found["llff/fern"]) == sizes_of(found["llff/trex"]) == {(16, 12)}
    assert "ply_file_path" in fern and "ply_file_path" not in trex
    for meta, seed in ((fern, 2), (trex, 3)):
        poses = np.array([frame["transform_matrix"] for frame in meta["frames"]])
        original = data_sets.capture(seed).views.cameras.centres.double().numpy()
        ratio = distances(poses[:, :3, 3])[0, 1:] / distances(original)[0, 1:]
        assert ratio.std() < 1e-4 * ratio.mean()
        assert np.allclose(poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1), np.eye(3), atol=1e-5)
    # Without points the cameras alone decide: up is z, and they lie at a median distance of 1 from their focus.
    up = poses[:, :3, 1].mean(axis=0)
    assert up[2] / np.linalg.norm(up) == pytest.approx(1, abs=1e-5)
    assert np.median(np.linalg.norm(poses[:, :3, 3], axis=1)) == pytest.approx(1, abs=1e-5)


def test_points_of_normalised_scenes_have_their_axes_along_those_of_the_world(tmp_path):
    folder = data_sets.write_dtu(tmp_path / "DTU")
    found = captures_of("dtu", folder, tmp_path / "out")
    assert list(found) == ["dtu/scan24", "dtu/scan37"]
    assert split_of(found["dtu/scan24"])[1] == split_of(found["dtu/scan37"])[1] == EVERY_8TH
    assert sizes_of(found["dtu/scan24"]) == {(64, 48)}
    assert_same_views(found["dtu/scan24"], data_sets.capture(4), list(range(17)))
    xyz = read_capture(found["dtu/scan24"]).points.xyz.double().numpy()
    covariance = np.cov(xyz, rowvar=False)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-4 * covariance.max()
    assert list(np.diag(covariance)) == sorted(np.diag(covariance), reverse=True)
    assert np.abs(np.median(xyz, axis=0)).max() < 0.05


def test_matrices_of_neus_give_the_cameras_whatever_their_factor(tmp_path):
    folder = data_sets.write_dtu(tmp_path / "DTU")
    frames = transforms(captures_of("dtu", folder, tmp_path / "out")["dtu/scan37"])["frames"]
    cameras = data_sets.capture(5).views.cameras
    assert [frame["fl_x"] for frame in frames] == pytest.approx(cameras.Ks[:, 0, 0].tolist(), rel=1e-4)
    poses = np.array([frame["transform_matrix"] for frame in frames])
    # The scene is turned as a whole, so the angles between cameras stay.
    expected = cameras.viewmats[:, 2, :3].double().numpy()
    assert np.allclose(poses[:, :3, 2] @ poses[:, :3, 2].T, expected @ expected.T, atol=1e-4)


def test_scannetpp_has_its_own_split_without_bad_frames(tmp_path):
    folder = data_sets.write_scannetpp(tmp_path / "scannetpp")
    found = captures_of("scannetpp", folder, tmp_path / "out")
    assert list(found) == ["scannetpp/0a5c013435", "scannetpp/0a7cc12c0e"]
    scene = found["scannetpp/0a5c013435"]
    kept = [view for view in range(17) if view not in (3, 5, 12)]
    assert split_of(scene) == (kept, [3, 12])
    assert sizes_of(scene) == {(32, 24)}
    assert_same_views(scene, data_sets.capture(6), sorted([*kept, 3, 12]), 0.5)


def farthest_first(centres: np.ndarray, count: int) -> list[int]:
    chosen = [int(np.linalg.norm(centres - centres.mean(axis=0), axis=1).argmax())]
    while len(chosen) < count:
        chosen.append(int(distances(centres)[:, chosen].min(axis=1).argmax()))
    return sorted(chosen)


def test_a_window_of_chunks_has_spread_context_and_targets_between(tmp_path, monkeypatch):
    smaller(monkeypatch, "dl3dv-8v", size=Cropped(32, 56), split=Window(20, 8, 8))
    folder = data_sets.write_chunks(tmp_path / "dl3dv")
    found = captures_of("dl3dv-8v", folder, tmp_path / "out")
    assert list(found) == ["dl3dv-8v/scene8", "dl3dv-8v/scene9"]
    context = farthest_first(data_sets.capture(8, 24).views.cameras.centres.double().numpy()[:20], 8)
    rest = [view for view in range(20) if view not in context]
    assert split_of(found["dl3dv-8v/scene8"]) == (context, rest[:8])  # floor(12 / 8) = 1.
    assert sizes_of(found["dl3dv-8v/scene8"]) == {(56, 32)}
    # 64 x 48 becomes 56 x 42, of which 5 rows are cut off at the top.
    frame, K = transforms(found["dl3dv-8v/scene8"])["frames"][0], data_sets.capture(8, 24).views.cameras.Ks[0]
    expected = [float(K[0, 0]) * 56 / 64, float(K[1, 1]) * 42 / 48, 28, 21 - 5]
    assert [frame[name] for name in ("fl_x", "fl_y", "cx", "cy")] == pytest.approx(expected, rel=1e-5)
    assert "ply_file_path" not in transforms(found["dl3dv-8v/scene8"])


def test_points_beside_chunks_come_with_their_scene(tmp_path, monkeypatch):
    smaller(monkeypatch, "dl3dv", size=Cropped(32, 56))
    folder = data_sets.write_chunks(tmp_path / "dl3dv", points=True)
    found, of = read_capture(captures_of("dl3dv", folder, tmp_path / "out")["dl3dv/scene9"]), data_sets.capture(9, 24)
    torch.testing.assert_close(found.points.xyz, of.points.xyz)
    # 64 x 48 becomes 56 x 42, and 5 rows are cut off at the top.
    pixels, depth = of.views.cameras.project(of.points.xyz)
    seen = of.views.cameras.inside(pixels, depth)
    moved, _ = found.views.cameras.project(found.points.xyz)
    expected = pixels * 56 / 64 - torch.tensor([0.0, 5.0])
    torch.testing.assert_close(moved[seen], expected[seen], rtol=1e-3, atol=0.05)


def test_the_split_of_long_lrm_holds_out_7_15_23(tmp_path, monkeypatch):
    smaller(monkeypatch, "dl3dv-16v-540x960", size=Cropped(32, 56), split=SpreadContext(6))
    folder = data_sets.write_chunks(tmp_path / "dl3dv")
    context, targets = split_of(captures_of("dl3dv-16v-540x960", folder, tmp_path / "out")["dl3dv-16v-540x960/scene8"])
    assert targets == [7, 15, 23] and len(context) == 6 and not set(context) & set(targets)


def test_dense_chunks_hold_out_every_8th(tmp_path, monkeypatch):
    smaller(monkeypatch, "dl3dv", size=Cropped(32, 56))
    folder = data_sets.write_chunks(tmp_path / "dl3dv")
    context, targets = split_of(captures_of("dl3dv", folder, tmp_path / "out")["dl3dv/scene9"])
    assert targets == [0, 8, 16] and len(context) == 21


def test_an_index_file_names_the_views_and_leaves_scenes_out(tmp_path, monkeypatch):
    smaller(monkeypatch, "re10k", size=Cropped(48, 48))
    folder, index = data_sets.write_chunks(tmp_path / "re10k"), tmp_path / "index.json"
    write_view_index(index, {"scene8": ViewIndex((2, 11), (4, 6, 9)), "scene9": None})
    found = captures_of("re10k", folder, tmp_path / "out", index)
    assert list(found) == ["re10k/scene8"]
    assert split_of(found["re10k/scene8"]) == ([2, 11], [4, 6, 9])
    for views, message in (
        (ViewIndex((2, 99), (4,)), "names view 99, and the scene has 24"),
        (ViewIndex((2, 5, 8), (4,)), "names 3 context views, and the suite has 2"),
    ):
        write_view_index(index, {"scene8": views})
        with pytest.raises(BenchError, match=message):
            captures_of("re10k", folder, tmp_path / "other", index)


def test_the_views_of_the_papers_are_declared():
    for name, expected in {
        "dl3dv-8v": (Window(40, 8, 8), (256, 448)),
        "dl3dv-16v": (Window(80, 16, 16), (256, 448)),
        "dl3dv-32v": (Window(160, 32, 24), (256, 448)),
        "dl3dv-8v-512x960": (Window(60, 8, 8), (512, 960)),
        "re10k-8v": (Window(200, 8, 8), (512, 960)),
        "dl3dv-16v-540x960": (SpreadContext(16), (540, 960)),
    }.items():
        suite = SUITES[name]
        assert (suite.split, (suite.size.height, suite.size.width)) == expected, name
    assert {name: SUITES[name].size.factor for name in ("mipnerf360", "llff")} == {"mipnerf360": 4, "llff": 4}
    assert {name for name, suite in SUITES.items() if suite.normalised} == {"llff", "dtu"}


def test_captures_are_written_once(tmp_path):
    folder = data_sets.write_mipnerf360(tmp_path / "360_v2", ("garden",))
    first = captures_of("mipnerf360", folder, tmp_path / "out")["mipnerf360/garden"]
    before = (first / "transforms.json").stat().st_mtime_ns
    assert captures_of("mipnerf360", folder, tmp_path / "out")["mipnerf360/garden"] == first
    assert (first / "transforms.json").stat().st_mtime_ns == before
    elsewhere = data_sets.write_mipnerf360(tmp_path / "other", ("garden",))
    assert captures_of("mipnerf360", elsewhere, tmp_path / "out")["mipnerf360/garden"] != first


def broken_mipnerf360(tmp_path, *path) -> Path:
    folder = data_sets.write_mipnerf360(tmp_path / "360_v2", ("garden",))
    folder.joinpath("garden", *path).unlink()
    return folder


@pytest.mark.parametrize(
    ("suite", "make", "message"),
    [
        ("mipnerf360", lambda path: path / "nowhere", "nowhere is no folder; .* SCENE/sparse/0"),
        ("mipnerf360", lambda path: path, "holds no scene of mipnerf360; it must hold SCENE/images"),
        ("llff", lambda path: path, "holds no scene of llff; .*poses_bounds.npy"),
        ("dtu", lambda path: path, "holds no scene of dtu; .*cameras_sphere.npz"),
        ("scannetpp", lambda path: path, "holds no scene of scannetpp; .*transforms_undistorted.json"),
        ("dl3dv-8v", lambda path: path, "index.json"),
        ("re10k", lambda path: path, "--view-index re10k=FILE"),
        ("mipnerf360", lambda path: broken_mipnerf360(path, "images_4", "IMG_0003.png"), None),
        ("nonsense", lambda path: path, "no suite nonsense; there are mipnerf360"),
    ],
)
def test_what_is_missing_has_a_sentence(tmp_path, suite, make, message):
    folder = make(tmp_path)
    dataset = SUITES[suite].dataset if suite in SUITES else "dtu"
    options = PaperOptions((suite,), (f"{dataset}={folder}",))
    if message is None:  # Copies that are not complete are not taken.
        (work,) = find_work(options, [], False, no_words)
        (source,) = work.captures(tmp_path / "out", lambda name: None)
        assert "images_4" not in transforms(Path(source.data))["frames"][0]["file_path"]
        return
    with pytest.raises(BenchError, match=message):
        find_work(options, [], False, no_words)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda scene: [path.unlink() for path in (scene / "images").iterdir()],
            "does not exist .17 of 17 photographs",
        ),
        (
            lambda scene: (scene / "sparse/0/images.bin").write_bytes(
                (scene / "sparse/0/images.bin").read_bytes()[:-40]
            ),
            "images.bin is cut short or damaged",
        ),
    ],
)
def test_damaged_scenes_have_a_sentence_and_leave_no_capture(tmp_path, edit, message):
    folder = data_sets.write_mipnerf360(tmp_path / "360_v2", ("garden",))
    for path in (folder / "garden/images_4").iterdir():
        path.unlink()
    edit(folder / "garden")
    with pytest.raises(BenchError, match=message):
        captures_of("mipnerf360", folder, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("transforms.json"))


def test_short_scenes_and_small_photographs_are_refused(tmp_path, monkeypatch):
    folder = data_sets.write_chunks(tmp_path / "dl3dv")
    with pytest.raises(BenchError, match="photographs have 48 x 64 pixels and the suite crops 256 x 448"):
        captures_of("dl3dv-8v", folder, tmp_path / "out")
    smaller(monkeypatch, "dl3dv-32v", size=Cropped(32, 56))
    with pytest.raises(BenchError, match="dl3dv-32v/scene8: 24 frames are too few for 32 context and 24 target"):
        captures_of("dl3dv-32v", folder, tmp_path / "out")


def test_a_suite_needs_its_data_set():
    with pytest.raises(BenchError, match="llff needs the data set llff; name its folder with --dataset llff=FOLDER"):
        find_work(PaperOptions(("llff",)), [], False, no_words)
    with pytest.raises(BenchError, match="--dataset tanks is unknown"):
        find_work(PaperOptions(("llff",), ("tanks=/x",)), [], False, no_words)
    with pytest.raises(BenchError, match="--dataset concerns suites"):
        _ = PaperOptions(datasets=("llff=/x",)).any
