"""Training scenes from chunks: the same scene and views for an index in every process, each scene once a pass."""

import pickle

import pytest
import torch

from l2o_splat.scenes.capture import Points, write_points
from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.folder import ChunkFolder
from l2o_splat.scenes.chunks.view_index import ViewIndex, write_view_index
from l2o_splat.training.chunk_options import ChunkOptions
from l2o_splat.training.chunk_source import ChunkSource
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.prefetch import prefetched
from tests.scenes.chunk_files import encoded, entry, photograph, write_folder

SIZE = (32, 48)


def scene(key: str, frames: int = 12, seed: int = 0) -> dict:
    images = [encoded(photograph(seed + frame, 60, 40)) for frame in range(frames)]
    return entry(key, frames) | {"images": images}


@pytest.fixture
def folder(tmp_path):
    chunks = [[scene(f"{chunk}{name}", seed=12 * i) for i, name in enumerate("xyz")] for chunk in "abc"]
    return write_folder(tmp_path / "train", *chunks)


def options(folder, **changes) -> ChunkOptions:
    defaults = {"size": SIZE, "context_views": 3, "target_views": 2, "gap": (5, 8), "start_gap": (4, 5), "warm_up": 20}
    return ChunkOptions(folder, **defaults | changes)


def test_views_are_at_the_wanted_size_and_context_and_targets_apart(folder):
    source = ChunkSource(options(folder))
    for index in range(6):
        capture = source.capture(index)
        assert capture.views.images.shape == (5, *SIZE, 3) and len(capture.points) == 0
        assert sorted(capture.context + capture.target) == list(range(5))
        # The video is a walk along x: views lie in its order, and context views at both ends.
        x = capture.views.cameras.centres[:, 0].round().int().tolist()
        assert x == sorted(x) and {0, 4} <= set(capture.context)
        frames = ChunkFolder(folder).scene(source.key(index)).decode(x, SIZE)
        assert torch.equal(capture.views.images, frames.images)
        assert torch.equal(capture.views.cameras.Ks, frames.cameras.Ks)


def test_every_scene_comes_once_a_pass_and_chunks_are_read_one_after_another(folder):
    source = ChunkSource(options(folder))
    passes = [[source.key(9 * number + i) for i in range(9)] for number in range(3)]
    for keys in passes:
        assert len(set(keys)) == 9
        assert [key[0] for key in keys[::3]] == [key[0] for key in keys[1::3]] == [key[0] for key in keys[2::3]]
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] != [ChunkSource(options(folder), seed=1).key(i) for i in range(9)]


def test_an_index_gives_the_same_capture_in_any_order_and_process(folder):
    source = ChunkSource(options(folder))
    forward = [source.capture(index) for index in range(4)]
    again = pickle.loads(pickle.dumps(source))
    for index in (3, 0, 2):
        assert torch.equal(again.capture(index).views.images, forward[index].views.images)
    with prefetched(ChunkSource(options(folder)), range(4), num_workers=1) as captures:
        for ours, theirs in zip(forward, captures, strict=False):
            assert torch.equal(ours.views.images, theirs.views.images)
            assert (ours.context, ours.target) == (theirs.context, theirs.target)
    assert repr(again) == repr(source)
    # The second visit of a scene shows other views of it.
    visits = [index for index in range(90) if source.key(index) == source.key(0)]
    assert len({tuple(source.capture(index).views.cameras.centres[:, 0].tolist()) for index in visits}) > 3


def test_gaps_grow_with_the_index(folder):
    source = ChunkSource(options(folder))

    def gaps(indices):
        x = [source.capture(index).views.cameras.centres[:, 0] for index in indices]
        return {round(float(places[-1] - places[0])) for places in x}

    assert gaps(range(4)) <= {4, 5}
    assert max(gaps(range(20, 60))) == 8 and min(gaps(range(20, 60))) == 5


def test_the_whole_scene_and_an_evaluation_index_give_their_views(folder, tmp_path):
    whole = ChunkSource(options(folder, sampler="whole-scene", context_views=64)).capture(0)
    assert len(whole.views) == 12 and len(whole.context) == 10 and len(whole.target) == 2
    index = {"ax": ViewIndex((7, 1), (4, 2)), "bx": None, "elsewhere": ViewIndex((0,), (1,))}
    write_view_index(tmp_path / "index.json", index)
    source = ChunkSource(options(folder, sampler="evaluation", view_index=tmp_path / "index.json"))
    assert {source.key(i) for i in range(5)} == {"ax"}
    capture = source.capture(3)
    x = capture.views.cameras.centres[:, 0]
    assert x[list(capture.context)].tolist() == pytest.approx([7, 1], abs=1e-5)
    assert x[list(capture.target)].tolist() == pytest.approx([4, 2], abs=1e-5)
    write_view_index(tmp_path / "index.json", {"elsewhere": ViewIndex((0,), (1,))})
    with pytest.raises(TrainingError, match="names no scene of"):
        ChunkSource(options(folder, sampler="evaluation", view_index=tmp_path / "index.json")).prepare()


def test_damaged_and_short_scenes_are_passed_over_and_named(tmp_path, caplog):
    bad, short = scene("bad"), scene("short", frames=5)
    bad["cameras"][4, 0] = 0
    source = ChunkSource(options(write_folder(tmp_path, [bad, short, scene("good")]), start_gap=(5, 5)))
    assert {source.key(i) for i in range(3)} == {"bad", "short", "good"}
    for index in range(6):
        assert len(source.capture(index).views) == 5
    assert [record for record in caplog.messages if "frame 4 of scene bad" in record] == caplog.messages
    assert len(caplog.messages) == 1
    with pytest.raises(TrainingError, match="No scene of .* can be used; .* 12 frames are too few for a gap of 40"):
        ChunkSource(options(write_folder(tmp_path, [scene("good")]), gap=(40, 50), warm_up=0)).capture(0)


def test_points_come_from_their_folder(folder, tmp_path):
    with pytest.raises(TrainingError, match="holds no points of any scene .* with KEY for example [abc][xyz]"):
        ChunkSource(options(folder, points=tmp_path)).prepare()
    points = Points(torch.tensor([[5.0, 0.1, 3.0], [6.0, 0.0, 4.0]]), torch.ones(2, 3))
    for key in ChunkFolder(folder).keys:
        write_points(tmp_path / f"{key}.ply", points)
    assert torch.equal(ChunkSource(options(folder, points=tmp_path)).capture(2).points.xyz, points.xyz)


def test_folders_that_are_not_usable_are_refused_before_the_first_scene(tmp_path):
    with pytest.raises(TrainingError, match="give --data.chunks.folder"):
        ChunkSource(ChunkOptions()).prepare()
    with pytest.raises(ChunkError, match="no file .*index.json"):
        ChunkSource(options(tmp_path)).prepare()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"size": (16, 64)}, "at least 32 pixels"),
        ({"context_views": 1}, "at least 2 and 1 are needed"),
        ({"target_views": 0}, "at least 2 and 1 are needed"),
        ({"gap": (12, 45)}, "--data.chunks.gap is .12, 45.; an ascending range from at least 13"),
        ({"start_gap": (30, 20)}, "--data.chunks.start-gap is"),
        ({"warm_up": -1}, "warm-up is -1"),
        ({"sampler": "evaluation"}, "needs a view index"),
        ({"view_index": "index.json"}, "no other takes one"),
    ],
)
def test_options_that_no_scene_can_fulfil_are_refused(changes, sentence):
    with pytest.raises(TrainingError, match=sentence):
        ChunkOptions(**changes)
