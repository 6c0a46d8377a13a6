"""Folders of chunks as pixelSplat keeps them: what is read, and every damage a sentence."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.folder import ChunkFolder
from l2o_splat.scenes.chunks.view_index import ViewIndex, read_view_index, write_view_index
from tests.scenes.chunk_files import HEIGHT, WIDTH, encoded, entry, photograph, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "train", [entry("a", 5, 0), entry("b", 3, 10)], [entry("c", 4, 20)])


def test_scenes_are_found_by_the_index_and_hold_the_stored_frames(folder):
    chunks = ChunkFolder(folder)
    assert chunks.keys == ("a", "b", "c")
    assert chunks.chunks == {"000000.torch": ("a", "b"), "000001.torch": ("c",)}
    scene = chunks.scene("b")
    assert (scene.key, scene.num_frames) == ("b", 3)
    views = scene.decode([2, 0])
    for image, frame in zip(views.images, (2, 0), strict=True):
        assert torch.equal((image * 255).round().byte(), torch.from_numpy(photograph(10 + frame).copy()))


def test_cameras_are_in_pixels_and_stand_where_the_rows_say(folder):
    cameras = ChunkFolder(folder).scene("a").cameras
    assert (cameras.width, cameras.height) == (WIDTH, HEIGHT)
    assert cameras.Ks[1].numpy() == pytest.approx(np.array([[36, 0, 20], [0, 36, 12], [0, 0, 1]]))
    assert cameras.centres.numpy() == pytest.approx(np.outer(np.arange(5), [1, 0, 0]), abs=1e-6)
    # A point in front of camera 3 (OpenCV axes: y down) is right of the middle of camera 2, for the camera stands left.
    pixels, depth = cameras.project(cameras.centres[3:4] + torch.tensor([[0.0, 0.5, 4.0]]))
    assert (depth > 0).all() and pixels[2, 0, 0] > WIDTH / 2 and pixels[2, 0, 1] > HEIGHT / 2


def test_only_the_frames_asked_for_are_decoded(folder):
    damaged = entry("a")
    damaged["images"][3] = damaged["images"][3][:40]
    scene = ChunkFolder(write_folder(folder, [damaged])).scene("a")
    scene.decode([0, 1, 2, 4])
    with pytest.raises(ChunkError, match="image of frame 3 of scene a cannot be decoded"):
        scene.decode([2, 3])


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_are_read(tmp_path, zipped):
    write_folder(tmp_path, [entry("a")])
    torch.save([entry("a")], tmp_path / "000000.torch", _use_new_zipfile_serialization=zipped)
    assert len(ChunkFolder(tmp_path).scene("a").decode(range(5))) == 5


def test_a_missing_url_or_timestamps_are_no_damage_and_alpha_goes_on_black(tmp_path):
    bare = {name: value for name, value in entry("a", 1).items() if name in ("key", "cameras", "images")}
    pixels = np.full((HEIGHT, WIDTH, 4), 200, np.uint8)
    pixels[:, : WIDTH // 2, 3] = 0
    bare["images"] = [encoded(pixels)]
    image = ChunkFolder(write_folder(tmp_path, [bare])).scene("a").decode([0]).images[0]
    assert image[:, : WIDTH // 2].max() == 0
    assert image[:, WIDTH // 2 :].numpy() == pytest.approx((200 / 255) ** 2, abs=0.5 / 255)


def test_a_pickled_folder_reads_the_same_scenes_and_carries_no_chunk(folder):
    chunks = ChunkFolder(folder)
    before = len(pickle.dumps(chunks))
    images = chunks.scene("c").decode([1]).images
    again = pickle.dumps(chunks)
    assert len(again) == before
    assert torch.equal(pickle.loads(again).scene("c").decode([1]).images, images)


def change(name, value):
    def spoil(item: dict) -> None:
        item[name] = value(item[name])

    return spoil


def row_change(*where, value):
    def spoil(item: dict) -> None:
        item["cameras"][where] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (change("cameras", lambda rows: rows.tolist()), "cameras that are a list with a list .* a float tensor"),
        (change("cameras", lambda rows: rows[:, :16]), r"float32 of shape \[5, 16\]; a float tensor of shape"),
        (change("cameras", lambda rows: rows.long()), "int64 of shape"),
        (change("images", lambda images: images[:3]), "5 cameras and 3 images"),
        (change("images", lambda images: [image.float() for image in images]), "a list with float32 of shape"),
        (change("timestamps", lambda times: times[:2]), "2 timestamps and 5 cameras"),
        (row_change(3, 1, value=0.0), "frame 3 of scene a in .*000000.torch has a focal length that is not positive"),
        (row_change(slice(2, 5), 0, value=-1.0), r"frame 2 .* not positive \(2 more frames too\)"),
        (row_change(1, 9, value=float("nan")), "frame 1 of scene a .* has NaN or infinite"),
        (row_change(4, 6, value=1.1), "frame 4 of scene a .* has no rotation"),
        (row_change(0, slice(6, 9), value=-torch.tensor([1.0, 0, 0])), "frame 0 of scene a .* has no rotation"),
        (change("images", lambda images: [torch.zeros(9, dtype=torch.uint8), *images[1:]]), "not a JPEG or PNG"),
    ],
)
def test_damaged_scenes_are_refused_and_their_neighbours_read(tmp_path, spoil, sentence):
    damaged = entry("a")
    spoil(damaged)
    chunks = ChunkFolder(write_folder(tmp_path, [damaged, entry("b")]))
    with pytest.raises(ChunkError, match=sentence):
        chunks.scene("a")
    assert chunks.scene("b").num_frames == 5


def test_frames_of_another_size_and_frames_beyond_the_last_are_refused(tmp_path):
    mixed = entry("a")
    mixed["images"][2] = encoded(photograph(0, WIDTH + 2))
    scene = ChunkFolder(write_folder(tmp_path, [mixed])).scene("a")
    with pytest.raises(ChunkError, match="Frame 2 of scene a is 42 x 24 pixels and frame 0 40 x 24"):
        scene.decode([1, 2])
    with pytest.raises(ChunkError, match="Frame 5 of scene a .* frames 0 to 4"):
        scene.decode([0, 5])
    with pytest.raises(ChunkError, match="Frame -1"):
        scene.decode([-1])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


class Harmful:
    def __reduce__(self):
        return print, ("this must not be run",)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_short, "cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "cut short"),
        (lambda path: path.write_bytes(b""), "cut short"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "no file of torch"),
        (lambda path: torch.save([Harmful()], path), "other objects than tensors"),
        (lambda path: torch.save({"key": "a"}, path), "holds a dict; a chunk is a list"),
        (lambda path: torch.save([entry("b"), {"images": []}], path), "Entry 1 .* is no scene"),
        (lambda path: torch.save([entry("b")], path), "scene a is in 000000.torch, which does not hold it"),
    ],
)
def test_damaged_chunks_are_refused(folder, damage, sentence, capsys):
    damage(folder / "000000.torch")
    with pytest.raises(ChunkError, match=sentence):
        ChunkFolder(folder).scene("a")
    assert ChunkFolder(folder).scene("c").num_frames == 4
    assert "must not be run" not in capsys.readouterr().out


def test_folders_without_a_usable_index_are_refused(folder):
    with pytest.raises(ChunkError, match="has no index.json, but its train have; name one of these"):
        ChunkFolder(folder.parent)
    with pytest.raises(ChunkError, match="names no scene d; give one of its 3 scenes"):
        ChunkFolder(folder).scene("d")
    (folder / "000001.torch").unlink()
    with pytest.raises(ChunkError, match="names 000001.torch, not there"):
        ChunkFolder(folder)
    for content, sentence in [("{}", "no scene"), ("[]", "JSON list"), ("{", "as JSON"), ('{"a": 1}', "for scene a")]:
        (folder / "index.json").write_text(content)
        with pytest.raises(ChunkError, match=sentence):
            ChunkFolder(folder)
    (folder / "index.json").unlink()
    with pytest.raises(ChunkError, match="There is no file .*index.json"):
        ChunkFolder(folder)


def test_an_evaluation_index_is_read_and_written(tmp_path):
    path = tmp_path / "evaluation_index_re10k.json"
    path.write_text('{"b": {"context": [40, 3], "target": [7, 5, 9], "overlap": 0.6}, "a": null}')
    index = read_view_index(path)
    assert list(index.items()) == [("b", ViewIndex((40, 3), (7, 5, 9))), ("a", None)]
    write_view_index(tmp_path / "again.json", index)
    assert read_view_index(tmp_path / "again.json") == index


@pytest.mark.parametrize(
    "views",
    [
        {"context": [0, 1]},
        {"context": [], "target": [1]},
        {"context": [0], "target": [1.5]},
        {"context": [0], "target": [True]},
        {"context": [-1], "target": [1]},
        {"context": [2, 2], "target": [1]},
        [0, 1],
    ],
)
def test_entries_that_name_no_views_are_refused(tmp_path, views):
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"a": views}))
    with pytest.raises(ChunkError, match="entry of scene a"):
        read_view_index(path)
