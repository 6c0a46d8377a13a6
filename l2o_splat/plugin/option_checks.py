"""Options of data manager and trainer that would fail late, or in the middle of a library."""

from __future__ import annotations

import math

from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.engine.trainer import TrainerConfig

from l2o_splat.losses import WINDOW as SSIM_WINDOW
from l2o_splat.plugin.errors import OptionError

SCALE = "--pipeline.datamanager.camera-res-scale-factor"


def check_data_options(config: FullImageDatamanagerConfig) -> None:
    """Refuse options out of range, before the capture is read.

    Raises:
        OptionError: The message names the option.
    """
    scale = config.camera_res_scale_factor
    if not (isinstance(scale, int | float) and 0 < scale <= 1):  # NaN is neither.
        raise OptionError(f"{SCALE} is {scale}; a factor above 0 and at most 1 is needed (0.5 halves the sides).")
    if not (isinstance(config.views_per_step, int) and config.views_per_step >= 1):
        raise OptionError(
            f"--pipeline.datamanager.views-per-step is {config.views_per_step}; a step needs at least 1 view."
        )
    _check_parser_options(config.dataparser)


def _check_parser_options(config: DataParserConfig) -> None:
    downscale = getattr(config, "downscale_factor", None)
    if downscale is not None and not (downscale >= 1 and math.isfinite(downscale)):
        raise OptionError(
            f"--downscale-factor is {downscale}; 1 for the photographs themselves, or a number above 1 for smaller "
            "copies, is needed."
        )
    scale = getattr(config, "scale_factor", 1.0)
    if not (math.isfinite(scale) and scale > 0):
        raise OptionError(f"--scale-factor is {scale}; a positive number is needed.")
    interval = getattr(config, "eval_interval", 8)
    if getattr(config, "eval_mode", None) == "interval" and interval < 2:
        raise OptionError(
            f"--eval-interval is {interval}, which leaves no photograph to train on or none to hold out; 2 or more is "
            "needed."
        )
    share = getattr(config, "train_split_fraction", 0.9)
    if getattr(config, "eval_mode", None) == "fraction" and not 0 < share <= 1:
        raise OptionError(f"--train-split-fraction is {share}; a number above 0 and at most 1 is needed.")


def check_image_sizes(outputs: DataparserOutputs, scale: float) -> None:
    """Refuse images that are too small for SSIM as they are used.

    Raises:
        OptionError: If scaling makes an image smaller than the window of SSIM, or it is that small to begin with.
    """
    widths, heights = (side.flatten().tolist() for side in (outputs.cameras.width, outputs.cameras.height))
    for path, width, height in zip(outputs.image_filenames, widths, heights, strict=True):
        if min(int(width * scale), int(height * scale)) >= SSIM_WINDOW:
            continue
        if min(width, height) < SSIM_WINDOW:
            raise OptionError(
                f"{path} is {width} x {height} pixels; SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW}: use larger "
                "photographs."
            )
        raise OptionError(
            f"{SCALE} {scale:g} makes {path.name} {int(width * scale)} x {int(height * scale)} pixels; SSIM needs at "
            f"least {SSIM_WINDOW} x {SSIM_WINDOW}: use {_rounded_up(SSIM_WINDOW / min(width, height))} or more."
        )


def _rounded_up(factor: float) -> float:
    return min(math.ceil(factor * 1000) / 1000, 1.0)


def check_trainer_options(config: TrainerConfig) -> None:
    """Refuse options that would change the loss scale, or split a step.

    Raises:
        SystemExit: The message names the option.
    """
    steps = config.max_num_iterations
    # The benchmark resumes a run that lacks its report alone, and takes no step.
    if steps is not None and (steps < 0 or (steps == 0 and config.load_dir is None)):
        raise SystemExit(f"l2o_splat: --max-num-iterations is {steps}; a run takes at least 1 step.")
    accumulated = {group: steps for group, steps in config.gradient_accumulation_steps.items() if steps != 1}
    if accumulated:
        raise SystemExit(
            f"l2o_splat: gradient accumulation is on ({accumulated}), but a rule needs the gradient of one step; "
            "leave it off and raise --pipeline.datamanager.views-per-step instead."
        )
    if config.mixed_precision or config.use_grad_scaler:
        raise SystemExit(
            "l2o_splat: mixed precision or a gradient scaler is on, but a rule needs unscaled float32 gradients; leave "
            "--mixed-precision and --use-grad-scaler off."
        )
