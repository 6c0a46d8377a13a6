"""Networks of the mini kind that are narrower still, and small scenes for them."""

from dataclasses import replace

from l2o_splat.initializer_training.data import SceneOptions
from l2o_splat.initializer_training.options import MINI, MINI_CONFIG, BatchOptions
from l2o_splat.initializer_training.scenes import DepthSource
from l2o_splat.nets.resplat.config import UpdateShape

SHAPE = replace(
    MINI,
    cnn_widths=(8, 8, 16),
    width=16,
    num_transformer_layers=1,
    attention_width=8,
    num_blocks=1,
    update=UpdateShape(state_width=16, attention_width=8, num_blocks=1, error_widths=(8, 16)),
)
CONFIG = replace(MINI_CONFIG, neighbours=4, update_neighbours=4)
SOURCE = DepthSource(0, SceneOptions(sizes=((32, 48),), portrait_share=0.0, num_views=(6, 6), num_points=(300, 300)))
BATCH = BatchOptions(context_views=(2, 3), target_views=1)
