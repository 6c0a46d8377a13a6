"""Weights on disk: ``NAME.safetensors`` holds the tensors, ``NAME.json`` beside it says what they are."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from l2o_splat.frame import FrameConvention
from l2o_splat.rendering.settings import RasterSettings

FORMAT_VERSION = 1
"""Version of the JSON; a newer one is refused."""

System = Literal["learn2splat", "resplat", "diff3r"]
"""Method the weights belong to."""


class WeightsError(ValueError):
    """Weights that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class WeightsCard:
    """Everything about weights but the tensors; the content of the JSON."""

    system: System
    architecture: dict[str, Any]
    """Summary of the shapes: widths for learn2splat, counts for resplat. For readers; loaders trust the tensors."""
    behaviour: dict[str, Any] = field(default_factory=dict)
    """Options that the tensors do not tell (fields of ``Learn2SplatConfig`` or ``ReSplatConfig``); the defaults
    of these where absent."""
    raster: dict[str, Any] | None = None
    """``RasterSettings`` the weights were trained with, those that differ from the defaults; None if unknown."""
    scene_frame: FrameConvention = "raw"
    """Units the weights were trained in, see :class:`l2o_splat.frame.Frame`."""
    licence: str = "unknown"
    """Licence and, where it asks for one, attribution."""
    source: str = "unknown"
    """Where the tensors come from: file, repository and revision, or the command that trained them."""
    training: dict[str, Any] = field(default_factory=dict)
    """Training record: settings, data, steps, machine."""
    sha256: str | None = None
    """Hash of the tensor file; None while the weights are not saved."""
    format_version: int = FORMAT_VERSION

    @property
    def raster_settings(self) -> RasterSettings | None:
        """Settings the weights were trained with, if known."""
        return None if self.raster is None else RasterSettings(**self.raster)


@dataclass(frozen=True)
class Weights:
    """Named tensors and what they are."""

    tensors: dict[str, Tensor]
    card: WeightsCard

    def require(self, system: System) -> Weights:
        """These weights, if they belong to a method.

        Raises:
            WeightsError: If they belong to another one.
        """
        if self.card.system != system:
            raise WeightsError(
                f"The weights from {self.card.source} are of {self.card.system}; {system} weights are needed here: "
                "'l2o weights list' names some."
            )
        return self


def file_pair(path: Path) -> tuple[Path, Path]:
    """Tensor file and JSON file of a path to either of them, or without suffix."""
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")


def save_weights(path: str | Path, weights: Weights) -> WeightsCard:
    """Write ``path.safetensors`` and ``path.json``; each appears whole or not at all, the JSON last.

    Returns:
        The card as written, with the hash.
    """
    tensor_file, card_file = file_pair(Path(path))
    tensor_file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    _write_beside(tensor_file, lambda target: save_file(tensors, target))
    card = replace(weights.card, sha256=hash_of(tensor_file), format_version=FORMAT_VERSION)
    text = json.dumps(asdict(card), indent=2, sort_keys=True, default=str) + "\n"
    _write_beside(card_file, lambda target: target.write_text(text))
    return card


def _write_beside(path: Path, write: Callable[[Path], Any]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def hash_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_card(path: Path) -> WeightsCard:
    """The card of weights on disk, checked field by field.

    Raises:
        WeightsError: If the JSON is missing, damaged, of a newer format, or has other fields.
    """
    tensor_file, card_file = file_pair(path)
    if not card_file.exists():
        raise WeightsError(
            f"{tensor_file} has no {card_file.name} beside it, which says what the tensors are; copy both files, or "
            "convert the original file with 'l2o weights convert'."
        )
    try:
        content = json.loads(card_file.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{card_file} is not readable as JSON ({error}); fetch or convert the weights again."
        ) from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise WeightsError(
            f"{card_file} has format version {version}; this release reads up to {FORMAT_VERSION}: update l2o_splat."
        )
    known = {entry.name for entry in fields(WeightsCard)}
    wrong = sorted(content.keys() ^ known)
    if wrong:
        raise WeightsError(f"{card_file} has missing or unknown fields {wrong}; fetch or convert the weights again.")
    if content["system"] not in get_args(System) or content["scene_frame"] not in get_args(FrameConvention):
        raise WeightsError(
            f"{card_file} names system {content['system']!r} and scene frame {content['scene_frame']!r}; "
            f"{get_args(System)} and {get_args(FrameConvention)} are known."
        )
    return WeightsCard(**content)


def read_weights(path: Path) -> Weights:
    """Weights saved by :func:`save_weights`; the tensors stay in the page cache until they are used.

    Raises:
        WeightsError: If a file is missing, truncated, or not the one the JSON was written for.
    """
    tensor_file, card_file = file_pair(path)
    if not tensor_file.exists():
        raise WeightsError(f"There is no {tensor_file}; give the path of a .safetensors file that exists.")
    card = read_card(path)
    found = hash_of(tensor_file)
    if found != card.sha256:
        raise WeightsError(
            f"{tensor_file} has SHA-256 {found[:12]}..., {card_file.name} says {str(card.sha256)[:12]}...; the file is "
            "truncated or another one: fetch or convert the weights again."
        )
    try:
        tensors = load_file(tensor_file)
    except SafetensorError as error:
        raise WeightsError(f"{tensor_file} is no safetensors file ({error}); fetch the weights again.") from None
    refuse_non_finite(tensors, tensor_file)
    return Weights(tensors, card)


def refuse_non_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise :class:`WeightsError` for NaN or infinite entries."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"Tensor {name!r} in {path} holds NaN or infinite numbers; use weights from another step."
            )
