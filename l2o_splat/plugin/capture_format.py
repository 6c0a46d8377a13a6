"""What a folder holds, compared with what a dataparser reads, and the sentence if the parser fails all the same."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.errors import OptionError, PluginError, raised_by_us

_MODEL_FOLDERS = ("sparse/0", "colmap/sparse/0", "sparse", "colmap/sparse", ".")
_PHOTOGRAPHS = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".heic"}
_FROM_BROKEN_FILES = (
    AssertionError,
    OSError,
    LookupError,
    ValueError,
    RuntimeError,
    TypeError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,  # For what the header of a broken file claims to hold.
    StopIteration,
    SyntaxError,
    struct.error,
    Image.DecompressionBombError,
)
"""What nerfstudio's dataparsers raise for files that are missing, broken, or of another version."""


def parser_name(config: DataParserConfig) -> str:
    """The name of a dataparser on the command line of ``ns-train``."""
    names = [name for name, known in all_dataparsers.items() if type(known) is type(config)]
    return names[0] if names else type(config).__name__.removesuffix("Config")


def check_format(config: DataParserConfig, data: Path) -> None:
    """Refuse a folder in which the dataparser will not find its files, and say what the folder holds.

    Raises:
        CaptureError: If ``transforms.json`` or the COLMAP model is missing or cannot be read.
        OptionError: If smaller copies of the photographs are asked for and do not exist.
    """
    if isinstance(config, NerfstudioDataParserConfig):
        _check_transforms_file(config, data)
    elif isinstance(config, ColmapDataParserConfig):
        _check_colmap_files(config, data)


def _check_transforms_file(config: DataParserConfig, data: Path) -> None:
    path = data if data.suffix == ".json" else data / "transforms.json"
    if not path.is_file():
        raise CaptureError(f"{parser_name(config)} cannot read {data}: there is no {path.name} in it. {_advice(data)}")
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CaptureError(
            f"{path} cannot be read as JSON ({_detail(error)}); it may be cut short: write the capture anew."
        ) from error

    factor, folder = config.downscale_factor, path.parent
    if factor is not None and factor > 1 and not (folder / f"images_{factor}").is_dir():
        raise OptionError(
            f"--downscale-factor is {factor}, but there is no images_{factor} with smaller copies in {folder}; leave "
            f"it out and use --pipeline.datamanager.camera-res-scale-factor {1 / factor:.3g}."
        )


def _check_colmap_files(config: ColmapDataParserConfig, data: Path) -> None:
    folder = data / config.colmap_path
    if not _holds_model(folder):
        raise CaptureError(
            f"colmap cannot read {data}: --colmap-path is {config.colmap_path}, and there are no cameras and images "
            f"(.bin or .txt) in {folder}. {_advice(data)}"
        )
    if not (data / config.images_path).is_dir():
        raise CaptureError(
            f"colmap cannot read {data}: --images-path is {config.images_path}, and there is no such folder of "
            "photographs in it; name the folder, relative to --data."
        )


def _holds_model(folder: Path) -> bool:
    return any(
        all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images")) for suffix in (".bin", ".txt")
    )


def _advice(data: Path) -> str:
    """What to type for what a folder holds."""
    if not data.is_dir():
        return "Give the folder of a capture."
    if (data / "transforms.json").is_file():
        return "It holds a transforms.json: put `nerfstudio-data` at the end of the command."
    models = [name for name in _MODEL_FOLDERS if _holds_model(data / name)]
    if models:
        return f"It holds a COLMAP model: put `colmap --colmap-path {models[0]}` at the end of the command."
    if (data / "transforms_train.json").is_file():
        return "It holds a transforms_train.json: put `blender-data` at the end of the command."
    photographs = sum(path.suffix.lower() in _PHOTOGRAPHS for path in data.rglob("*"))
    if photographs:
        return f"It holds {photographs} photographs and no poses: `l2o photos {data}` finds them."
    return "It holds neither poses nor photographs: give the folder of a capture, or of photographs to `l2o photos`."


class GuardedParser:
    """A dataparser that names the fault if the files it reads are broken."""

    def __init__(self, parser: DataParser, config: DataParserConfig) -> None:
        self._parser, self._config = parser, config

    @property
    def includes_time(self) -> bool:
        return self._parser.includes_time

    def get_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """The parser's.

        Raises:
            CaptureError: If the parser fails over what it reads. An error in our own lines keeps its stack trace.
        """
        with fault_named(self._config):
            return self._parser.get_dataparser_outputs(split, **kwargs)


@contextmanager
def fault_named(config: DataParserConfig) -> Iterator[None]:
    """Turn what a dataparser of nerfstudio raises over broken files into a sentence."""
    try:
        yield
    except PluginError:
        raise
    except ZeroDivisionError as error:
        # nerfstudio's dataparsers divide by the cameras' reach.
        raise CaptureError(
            f"All cameras of {config.data} are in one place, as in a panorama; depth shows only between photographs "
            "from different places: add some, or check the poses."
        ) from error
    except _FROM_BROKEN_FILES as error:
        if raised_by_us(error):
            raise
        raise CaptureError(
            f"{parser_name(config)} cannot read {config.data}: {_detail(error)}. {_remedy(config)}"
        ) from error


def _remedy(config: DataParserConfig) -> str:
    named = (NerfstudioDataParserConfig, ColmapDataParserConfig)
    if not isinstance(config, named) and (config.data / "transforms.json").is_file():
        return _advice(config.data)
    return "Repair the file, or write the capture anew."


def _detail(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} does not exist"
    if isinstance(error, KeyError):
        return f"the entry {text} is missing"
    if isinstance(error, StopIteration):
        return "a split holds no photographs"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
