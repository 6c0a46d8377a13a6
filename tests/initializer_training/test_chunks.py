"""Training on chunks, which have neither exact depths nor points."""

from dataclasses import replace

import pytest

from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.data import SceneData
from l2o_splat.initializer_training.options import DepthLossWeights, InitializerTrainingOptions, Losses
from l2o_splat.training.chunk_options import ChunkOptions
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import Schedule
from l2o_splat.weights import load_weights
from tests.initializer_training.networks import BATCH, CONFIG, SHAPE
from tests.scenes.chunk_files import write_folder
from tests.training.test_chunk_source import scene

SMOOTH = Losses(depth=DepthLossWeights(regression=0.0, classification=0.0))


@pytest.fixture
def command(tmp_path) -> TrainInitializer:
    chunks = ChunkOptions(
        write_folder(tmp_path / "train", [scene("a", 8), scene("b", 8, seed=8)]),
        size=(32, 48),
        context_views=3,
        target_views=2,
        gap=(5, 7),
        start_gap=(4, 5),
        warm_up=4,
    )
    test = write_folder(tmp_path / "test", [scene("c", 8, seed=16)])
    return TrainInitializer(
        tmp_path / "run",
        backbone_weights="none",
        losses=SMOOTH,
        training=InitializerTrainingOptions(
            iterations=2, scenes_per_iteration=2, batch=replace(BATCH, turn_probability=0.0)
        ),
        shape=SHAPE,
        behaviour=replace(CONFIG, depth_range="weights", units="dataset", near=1.0, far=50.0),
        data=SceneData(chunks=chunks, validation_chunks=test, validation_captures=1),
        schedule=Schedule(evaluate_every=2, save_every=2, workers=0),
    )


def test_both_stages_train_on_chunks(command, tmp_path):
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    command.run()
    initial = load_weights(tmp_path / "run" / "best.safetensors", "resplat")
    numbers = initial.card.training["validation"]
    assert numbers["psnr"] > 0 and numbers["image_error"] > 0 and "depth_rank" not in numbers
    assert initial.card.training["unusable_captures"] == 0
    assert initial.card.training["options"]["data"]["chunks"]["gap"] == [5, 7]
    weights = str(tmp_path / "run" / "best.safetensors")
    replace(command, out=tmp_path / "update", stage="update", weights=weights, start=("resplat",), steps=(1, 2)).run()
    whole = load_weights(tmp_path / "update" / "best.safetensors", "resplat")
    assert whole.card.training["validation"]["psnr_resplat_2"] > 0
    assert any(name.startswith("encoder.update_head.") for name in whole.tensors)


def test_what_chunks_lack_is_said_before_any_work(command):
    with pytest.raises(TrainingError, match="Chunks have no exact depths, .* give 0 to both"):
        replace(command, losses=Losses()).run()
    with pytest.raises(TrainingError, match="--start has points, and chunks hold none"):
        replace(command, stage="update", weights="w", start=("points",)).run()
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    with pytest.raises(
        TrainingError, match=r"range of depths from each scene's sparse points, .* --data.chunks.points"
    ):
        replace(command, behaviour=CONFIG).run()
