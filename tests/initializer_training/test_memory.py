"""The estimate of memory: its exact part for the released sizes, and how activations grow."""

import pytest
import torch

from l2o_splat.initializer_training.batches import fixed_batch
from l2o_splat.initializer_training.initial_stage import InitialStage
from l2o_splat.initializer_training.memory import activation_bytes, saved_bytes, small, spoken, state_size
from l2o_splat.initializer_training.networks import new_initial_model, new_update_network
from l2o_splat.initializer_training.options import Losses
from l2o_splat.initializer_training.update_stage import UpdateStage
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.layouts import LAYOUTS
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from tests.initializer_training.networks import CONFIG, SHAPE, SOURCE

# Of ReSplat's released networks: all parameters of the initial model and of the update, the latter's frozen features
# among them.
INITIAL = {"small-8v-256x448": 62_138_000, "base-8v-256x448": 209_354_000, "large-8v-256x448": 559_511_000}
UPDATE, FEATURES = 13_810_000, 683_000


@pytest.mark.parametrize("name", INITIAL)
def test_state_of_the_released_layouts(name):
    layout = LAYOUTS[name]
    with torch.device("meta"):
        model = InitialModel(layout.shape, layout.behaviour)
        size = state_size(InitialStage(model, Losses()))
        assert size.numbers == pytest.approx(INITIAL[name], rel=2e-3)
        assert size.trained == size.numbers == size.network
        # Weights, their average, gradients and two moments, four bytes each.
        assert size.num_bytes == 20 * size.numbers
        if layout.shape.update is None:
            return
        update = ReSplatUpdateNetwork(layout.shape)
        stage = UpdateStage(update, ReSplatInitializer(model), Losses(), ("resplat",), (1, 4))
        frozen = state_size(stage)
    assert frozen.trained == pytest.approx(UPDATE, rel=2e-2)
    assert frozen.network - frozen.trained == pytest.approx(FEATURES, rel=1e-2)
    assert frozen.numbers == size.numbers + frozen.network
    assert frozen.num_bytes == 4 * (frozen.numbers + frozen.network + 3 * frozen.trained)


@pytest.fixture(scope="module")
def batch():
    return fixed_batch(SOURCE.capture(0), 4, torch.device("cpu"))


def test_activations_of_larger_images_are_near_what_small_ones_foretell(batch):
    stage = InitialStage(new_initial_model(SHAPE, CONFIG, seed=0), Losses())
    foretold = activation_bytes(stage, batch, side=16, pixels=4 * 96 * 96)
    measured = saved_bytes(stage, small(batch, 96, 96))
    assert foretold == pytest.approx(measured, rel=0.25)
    assert foretold > 2 * saved_bytes(stage, small(batch, 32, 64))


def test_the_most_updates_count(batch):
    initializer = ReSplatInitializer(new_initial_model(SHAPE, CONFIG, seed=0))
    network = new_update_network(SHAPE, seed=1)
    found = [
        saved_bytes(UpdateStage(network, initializer, Losses(), ("resplat",), (1, most)), batch) for most in (1, 3)
    ]
    assert found[1] > 2 * found[0]


def test_the_sentence(batch):
    stage = InitialStage(new_initial_model(SHAPE, CONFIG, seed=0), Losses())
    size = state_size(stage)
    text = spoken(size, 2_340_000_000, 8, 256, 448, scenes=2)
    assert f"{size.numbers / 1e6:.1f} M parameters" in text and "about 2.3 GB of activations for 8 context" in text
    assert "256 x 448; 2 scenes of an iteration follow one another" in text
