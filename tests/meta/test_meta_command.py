"""``l2o meta-train``: where scenes come from, and what is refused before anything is trained."""

import pickle
import re
from pathlib import Path

import pytest

from l2o_splat.errors import L2OError
from l2o_splat.meta.command import CaptureLoader, DataOptions, MetaTrain
from l2o_splat.meta.options import EpisodeOptions, MetaOptions
from l2o_splat.scenes.capture_names import CaptureSource
from l2o_splat.training.chunk_options import ChunkOptions
from l2o_splat.training.chunk_source import ChunkSource
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.sources import CapturesSource, MixtureSource, ProceduralSource
from tests.scenes.chunk_files import entry, write_folder


def read(data, dataparser, scale, hold_out):
    """Stands in for nerfstudio's dataparsers."""
    return data, dataparser, scale, hold_out


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "garden").mkdir()
    (tmp_path / "garden" / "transforms.json").touch()
    return tmp_path / "garden"


def test_captures_are_read_without_their_held_out_views(folder):
    source = DataOptions(captures=(str(folder),), scale=0.5, capture_share=1.0).source(read)
    assert isinstance(source, CapturesSource)
    (loader,) = source.captures
    expected = (folder, ("nerfstudio-data", "--load-3D-points"), 0.5, True)
    assert loader() == expected
    assert pickle.loads(pickle.dumps(loader))() == expected  # As worker processes get it.
    assert CaptureLoader(read, CaptureSource("l2o-demo", ("l2o-demo",), None), 1.0)() == (
        None,
        ("l2o-demo",),
        1.0,
        True,
    )


def test_a_source_is_described_alike_in_every_process(folder):
    """A resumed run compares the description; an address in it would differ every time."""
    options = DataOptions(captures=(str(folder),), capture_share=0.25, seed=3)
    source = options.source(read)
    assert isinstance(source, MixtureSource)
    assert [share for share, _ in source.parts] == [0.25, 0.75]
    assert str(folder) in repr(source) and not re.search("0x[0-9a-f]{6}", repr(source))
    assert repr(source) == repr(options.source(lambda *arguments: None))
    assert options.describe().startswith("25% captures (garden) at scale 0.25, otherwise procedural scenes, seed 3")


def test_without_captures_scenes_are_procedural():
    options = DataOptions(seed=3)
    assert options.source(read) == ProceduralSource(3)
    assert options.describe().startswith("procedural scenes, seed 3")


def test_chunks_share_the_scenes_with_captures_and_procedural_ones(folder, tmp_path):
    chunks = ChunkOptions(write_folder(tmp_path / "train", [entry("a")]))
    only = DataOptions(chunks=chunks, capture_share=1.0, seed=3).source(read)
    assert only == ChunkSource(chunks, 3)
    options = DataOptions(captures=(str(folder),), chunks=chunks, capture_share=0.5)
    assert [share for share, _ in options.source(read).parts] == [0.25, 0.25, 0.5]
    assert [type(part) for _, part in options.source(read).parts] == [CapturesSource, ChunkSource, ProceduralSource]
    assert "captures (garden) at scale 0.25 and chunks" in options.describe()
    with pytest.raises(L2OError, match="no file .*index.json"):
        DataOptions(chunks=ChunkOptions(folder)).source(read)


@pytest.mark.parametrize("start", ["points", "resplat"])
def test_chunks_without_the_points_that_scenes_start_from_are_refused(tmp_path, start):
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    chunks = ChunkOptions(write_folder(tmp_path / "train", [entry("a")]))
    training = MetaOptions(episode=EpisodeOptions(start=start))
    train = MetaTrain(tmp_path / "run", training=training, data=DataOptions(chunks=chunks), accelerator="cpu")
    with pytest.raises(TrainingError, match="needs the sparse points .* give --data.chunks.points a folder"):
        train.run(read)


def test_what_cannot_be_trained_on_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(TrainingError, match="capture-share is 0; a share above 0"):
        DataOptions(capture_share=0)
    with pytest.raises(TrainingError, match="validation-captures is below 1"):
        DataOptions(validation_captures=0)
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    nowhere = DataOptions(captures=(str(tmp_path / "nowhere"),))
    with pytest.raises(TrainingError, match="nowhere is no folder"):
        MetaTrain(tmp_path, data=nowhere, accelerator="cpu").run(read)
