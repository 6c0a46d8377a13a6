"""The methods nerfstudio finds by entry point.

Entry points are loaded unguarded, so this module must import on every machine: without a GPU, a CUDA
toolkit, or weights.
"""

from __future__ import annotations

from typing import Literal

from nerfstudio.configs.base_config import LoggingConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.types import MethodSpecification

from l2o_splat.plugin.datamanager import L2ODataManagerConfig
from l2o_splat.plugin.model import ImageLoss, L2OModelConfig
from l2o_splat.plugin.optimizer_config import JointOptimizerConfig, RuleName
from l2o_splat.plugin.pipeline import L2OPipelineConfig
from l2o_splat.plugin.starts import InitializationConfig
from l2o_splat.plugin.step_table import StepTableConfig
from l2o_splat.plugin.trainer import L2OTrainerConfig


def _method(
    name: str,
    rule: RuleName,
    description: str,
    start: Literal["auto", "resplat", "diff3r"] = "auto",
    loss: ImageLoss = "photometric",
) -> MethodSpecification:
    config = L2OTrainerConfig(
        method_name=name,
        steps_per_save=100,
        steps_per_eval_batch=0,
        steps_per_eval_image=0,
        steps_per_eval_all_images=100,
        pipeline=L2OPipelineConfig(
            datamanager=L2ODataManagerConfig(
                # Every 8th photograph is held out, as with colmap, l2o-demo and l2o bench.
                dataparser=NerfstudioDataParserConfig(load_3D_points=True, eval_mode="interval", eval_interval=8)
            ),
            model=L2OModelConfig(loss=loss),
            initialization=InitializationConfig(source=start),
        ),
        optimizers={
            "gaussians": {"optimizer": JointOptimizerConfig(rule=rule), "scheduler": None},
        },
        # Times of nerfstudio's functions say little about a run; the table has the time of a step.
        logging=LoggingConfig(local_writer=StepTableConfig(), profiler="none"),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer+tensorboard",
    )
    return MethodSpecification(config=config, description=description)


l2o_adam = _method(
    "l2o-adam", "adam", "Baseline: Adam with gsplat's rates, moving all Gaussian parameters as one joint optimizer."
)
l2o_adam_tuned = _method(
    "l2o-adam-tuned",
    "adam-own-scale",
    "Strong baseline: Adam with position steps in units of each Gaussian's own scale and decaying rates.",
)
learn2splat = _method(
    "learn2splat",
    "learn2splat",
    "Learn2Splat (arXiv 2605.15760): a meta-learned optimizer in Adam's place; name its weights.",
)
resplat = _method(
    "resplat",
    "resplat",
    "ReSplat (arXiv 2510.08575): a scene from a few views in one pass, and a few learned updates.",
    start="resplat",
)
diff3r = _method(
    "diff3r",
    "proximal-own-scale",
    "DIFF3R (arXiv 2604.01030): refine a start on a few views, each Gaussian held near it as strongly as it should be.",
    start="diff3r",
    loss="squared",
)
