"""The ``l2o-demo`` dataparser: a procedural capture that needs no download and no ``--data``.

The capture is generated on first use, kept in a cache folder, and read from there by nerfstudio's own
``nerfstudio-data`` parser. It depends on the options below alone, so that a saved ``config.yml`` finds the
same capture again, or generates it anew on another machine.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.files import cache_folder
from l2o_splat.plugin.capture_checks import CaptureError


@dataclass
class L2ODemoDataParserConfig(DataParserConfig):
    """Procedural capture, generated on first use"""

    _target: type = field(default_factory=lambda: L2ODemoDataParser)
    """target class to instantiate"""
    data: Path = Path()
    """Leave it out: the capture is generated into $L2O_SPLAT_CACHE, or ~/.cache/l2o_splat."""
    seed: int = 0
    """Which capture; every seed gives another one."""
    num_views: int = 48
    """Number of photographs; images 0, 8, 16... are held out for evaluation."""
    width: int = 480
    """Image width, pixels."""
    height: int = 320
    """Image height, pixels."""
    num_points: int = 8000
    """Points of the sparse cloud."""


class L2ODemoDataParser(DataParser):
    """Generates the capture when it is not in the cache, and lets nerfstudio's own parser read it."""

    config: L2ODemoDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs) -> DataparserOutputs:
        parser = NerfstudioDataParserConfig(
            data=cached_capture(self.config),
            downscale_factor=1,
            eval_mode="interval",
            eval_interval=8,
            load_3D_points=True,
        )
        return parser.setup().get_dataparser_outputs(split, **kwargs)


def cached_capture(config: L2ODemoDataParserConfig) -> Path:
    """Folder of the capture, generated there first when it is new.

    Raises:
        CaptureError: an option is out of range, ``--data`` was given, or the cache cannot be written.
    """
    from l2o_splat.scenes.capture import write_capture
    from l2o_splat.scenes.procedural import GENERATOR_VERSION, ProceduralOptions, generate

    if config.data != Path():
        raise CaptureError(
            f"--data {config.data} was given, but l2o-demo generates its own capture; leave --data out, or name the "
            "dataparser of that capture (nerfstudio-data, colmap)."
        )
    try:
        options = ProceduralOptions(
            num_views=config.num_views,
            width=config.width,
            height=config.height,
            num_points=config.num_points,
            trajectory="orbit",
            random_world=False,
        )
        if config.seed < 0:
            raise ValueError(f"seed is {config.seed}; it must not be negative.")
    except ValueError as error:
        raise CaptureError(f"l2o-demo: {error}") from error
    key = hashlib.sha256(repr((GENERATOR_VERSION, config.seed, options)).encode()).hexdigest()[:16]
    directory = cache_folder() / "captures" / f"seed-{config.seed}-{key}"
    if (directory / "transforms.json").is_file():
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        CONSOLE.log(f"Generating the procedural capture of seed {config.seed} in {directory}")
        write_capture(directory, generate(config.seed, options, threads=os.cpu_count() or 1))
    except FileExistsError as error:
        # Another process that finished first wrote the same capture.
        if not (directory / "transforms.json").is_file():
            raise CaptureError(f"{directory} lacks its transforms.json; remove that folder and start again.") from error
    except OSError as error:
        raise CaptureError(
            f"The demo capture cannot be written to {directory} ({error.strerror or error}); set L2O_SPLAT_CACHE to a "
            "folder on a disk with space that you can write to."
        ) from error
    return directory


l2o_demo_dataparser = DataParserSpecification(
    config=L2ODemoDataParserConfig(),
    description="Procedural capture, generated on first use; needs no --data.",
)
