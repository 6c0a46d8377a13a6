"""Held-out quality and pictures of the scene in a pipeline, by the same code for whatever made the scene."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from torch import Tensor

from l2o_splat.bench.pictures import error_map, picture_path, save_picture, shown_views
from l2o_splat.gaussians import Gaussians
from l2o_splat.growth.needles import share_of_needles
from l2o_splat.losses import equal_where_masked
from l2o_splat.metrics import Lpips, colour_corrected, psnr, ssim
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.photographs import photograph_and_mask


class HeldOutViews:
    """The held-out views of a pipeline, ours or nerfstudio's own.

    Args:
        pipeline: Holds the scene and the views.
        off_the_clock: Makes what a look at the views happens in.
    """

    def __init__(
        self, pipeline: VanillaPipeline, off_the_clock: Callable[[], AbstractContextManager] = nullcontext
    ) -> None:
        self.pipeline, self.off_the_clock = pipeline, off_the_clock
        self.lpips = Lpips()

    def measure(self, taken: int) -> dict[str, Any]:
        """Quality, mean over the views that have it; number of Gaussians and share of needles: a record of the log.

        Args:
            taken: Steps so far.

        Raises:
            CaptureError: If masks leave nothing of the held-out views to measure.
            FloatingPointError: If a quality is not finite.
        """
        measures = {"psnr": psnr, "ssim": ssim, "lpips": self.lpips}
        if getattr(self.pipeline.model.config, "color_corrected_metrics", False):
            measures["cc_psnr"] = lambda *view: psnr(colour_corrected(*view), *view[1:])
        measured: dict[str, list[float]] = {name: [] for name in measures}
        for view in self._views():
            for name, measure in measures.items():
                if (value := measure(*view)) is not None:
                    measured[name].append(value)
        quality = {name: statistics.fmean(values) if values else None for name, values in measured.items()}
        if quality["psnr"] is None:
            raise CaptureError(
                "Every pixel of the held-out views is masked, so there is no quality to measure; check the masks "
                "(white counts, black does not), or hold other views out."
            )
        broken = [name for name, value in quality.items() if value is not None and not math.isfinite(value)]
        if broken:
            raise FloatingPointError(f"After {taken} steps the held-out {broken[0].upper()} is not a finite number.")
        gaussians = _gaussians(self.pipeline)
        return quality | {
            "step": taken,
            "num_gaussians": None if gaussians is None else len(gaussians),
            "needles": None if gaussians is None else share_of_needles(gaussians),
        }

    def _views(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield render, photograph and mask of each held-out view."""
        self.pipeline.eval()
        # Measuring must not change the random numbers that training draws.
        with self.off_the_clock(), torch.random.fork_rng(), torch.no_grad():
            for camera, batch in self.pipeline.datamanager.fixed_indices_eval_dataloader:
                outputs = self.pipeline.model.get_outputs_for_camera(camera)
                rendered = outputs["rgb"].clamp(0, 1)
                photograph, mask = photograph_and_mask(batch, outputs["background"].to(rendered))
                yield rendered, photograph, mask
        self.pipeline.train()

    def save_pictures(self, folder: Path, when: str) -> None:
        """Save some views for the report; ``when`` is ``start`` or ``end``."""
        views = [[None if image is None else image.cpu() for image in view] for view in self._views()]
        names = [path.stem for path in self.pipeline.datamanager.eval_dataset.image_filenames]
        for index in shown_views(len(views)):
            rendered, photograph, mask = views[index]
            view = f"{index:03d}-{names[index]}"
            save_picture(picture_path(folder, view, when), rendered.numpy())
            if when == "end":
                save_picture(picture_path(folder, view, "photograph"), photograph.numpy())
                compared = (image.numpy() for image in equal_where_masked(rendered, photograph, mask))
                save_picture(picture_path(folder, view, "error"), error_map(*compared))


def _gaussians(pipeline: VanillaPipeline) -> Gaussians | None:
    """The scene of a model of ours or of splatfacto, on its device; None of a model without Gaussians."""
    fields = getattr(pipeline.model, "gauss_params", None)
    return None if fields is None else Gaussians.from_mapping(fields).detach()
