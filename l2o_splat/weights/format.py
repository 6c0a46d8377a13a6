"""Weights on disk: ``NAME.safetensors`` holds the tensors, and ``NAME.json`` beside it describes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from l2o_splat.errors import L2OError
from l2o_splat.files import write_text_whole, write_whole
from l2o_splat.frame import FrameConvention
from l2o_splat.raster_settings import RasterSettings

FORMAT_VERSION = 1
"""Version of the JSON; newer versions are refused."""

System = Literal["learn2splat", "gain", "controller", "resplat", "diff3r", "dense", "lpips"]
"""Kind of weights: networks of the three papers, the gain network, the controller and the dense head of this package,
and networks of LPIPS."""

_GAIN_FIXED = {
    "active_only": False,
    "latent_init": "zeros",
    "use_features": False,
    "units": "own_scale",
    "cap_sh_degree": None,
}
"""Options that gain weights used to share with learn2splat, and the one value that they had; they no longer exist."""
_GAIN_FORMER_DEFAULTS = {
    "neighbours": 4,
    "active_only": True,
    "knn_refresh_interval": 1,
    "log_scale_range": [-8.0, 1.0986],
    "opacity_logit_limit": 7.0,
    "sh_limit": 2.0,
    "cap_sh_degree": None,
    "latent_init": "random",
    "use_features": True,
    "precision": "auto",
    "units": "training",
    "step_decay": None,
    "look_growth": None,
    "trust_decay": None,
}
"""What options meant that a file from before the system "gain" does not name."""


class WeightsError(L2OError, ValueError):
    """Weights that cannot be used; the message says why and what to do."""


_NOT_SAVED = {"name", "num_bytes"}
"""Fields of a card that its JSON does not hold."""


@dataclass(frozen=True)
class WeightsCard:
    """What weights are; the content of the JSON, and what is known of the files it was read from."""

    system: System
    architecture: dict[str, Any]
    """Summary of the shapes for readers: widths (learn2splat, gain) or counts (resplat, diff3r). Loaders read the
    tensors."""
    behaviour: dict[str, Any] = field(default_factory=dict)
    """Options that cannot be read from the tensors: fields of the config of the system. Absent ones have the config's
    defaults."""
    raster: dict[str, Any] | None = None
    """Fields of ``RasterSettings`` used in training that differ from the defaults; None if unknown."""
    scene_frame: FrameConvention = "raw"
    """Units used in training, see :class:`l2o_splat.frame.Frame`."""
    licence: str = "unknown"
    """Licence, with the attribution that it requires."""
    source: str = "unknown"
    """Origin of the tensors: file, repository and revision, or the command that trained them."""
    training: dict[str, Any] = field(default_factory=dict)
    """Training record: settings, data, steps, machine."""
    sha256: str | None = None
    """Hash of the tensor file; None if the weights were not saved yet."""
    format_version: int = FORMAT_VERSION
    name: str | None = field(default=None, compare=False)
    """What the weights were asked for by, without folders; not saved."""
    num_bytes: int | None = field(default=None, compare=False)
    """Size of the tensors; not saved."""

    def saved(self) -> dict[str, Any]:
        """The content of the JSON."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_SAVED}

    @property
    def announcement(self) -> str:
        """Name, size and licence, as a run tells them."""
        size = "" if self.num_bytes is None else f"{_spoken_size(self.num_bytes)}, "
        return f"{self.name or self.source} ({size}licence {self.licence})"

    @property
    def raster_settings(self) -> RasterSettings | None:
        """Raster settings used in training; None if unknown."""
        return None if self.raster is None else RasterSettings(**self.raster)


@dataclass(frozen=True)
class Weights:
    """Named tensors and their card."""

    tensors: dict[str, Tensor]
    card: WeightsCard

    def behaviour(self, config: type, options: Mapping[str, Any]) -> dict[str, Any]:
        """Behaviour of the card with some options replaced, as fields of a config.

        Args:
            config: Dataclass of the options that the code knows.
            options: Options that replace those of the card.

        Raises:
            ValueError: If either names a field that ``config`` does not have.
        """
        known = {entry.name for entry in fields(config)}
        if unknown := sorted(options.keys() - known):
            raise ValueError(f"{self.card.system} has no options {unknown}; {sorted(known)} can be set.")
        if unknown := sorted(self.card.behaviour.keys() - known):
            raise ValueError(f"The weights from {self.card.source} have unknown options {unknown}; update l2o_splat.")
        return self.card.behaviour | dict(options)

    def require(self, *systems: System) -> Weights:
        """Return these weights if they are of one of the given systems.

        Raises:
            WeightsError: If they are not.
        """
        if self.card.system not in systems:
            raise WeightsError(
                f"The weights from {self.card.source} are of {self.card.system}; {' or '.join(systems)} weights are "
                "needed here: 'l2o weights list' names some."
            )
        return self


def _spoken_size(num_bytes: int) -> str:
    return f"{num_bytes / 1e3:.0f} kB" if num_bytes < 1e6 else f"{num_bytes / 1e6:.1f} MB"


def file_pair(path: Path) -> tuple[Path, Path]:
    """Paths of the tensor file and of the JSON, from the path of either or their common path without suffix."""
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")


def save_weights(path: str | Path, weights: Weights) -> WeightsCard:
    """Write ``path.safetensors``, then ``path.json``, each atomically.

    Returns:
        The card as written, with the hash.
    """
    tensor_file, card_file = file_pair(Path(path))
    tensor_file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    write_whole(tensor_file, lambda target: save_file(tensors, target))
    card = replace(weights.card, sha256=hash_of(tensor_file), format_version=FORMAT_VERSION)
    text = json.dumps(card.saved(), indent=2, sort_keys=True, default=str) + "\n"
    write_text_whole(card_file, text)
    return card


def hash_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_card(path: Path) -> WeightsCard:
    """Read and check the card of weights on disk.

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
    known = {entry.name for entry in fields(WeightsCard)} - _NOT_SAVED
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
    """Read weights saved by :func:`save_weights`, of this version or an earlier one. Tensors are memory-mapped.

    Raises:
        WeightsError: If a file is missing or damaged, does not match the JSON, or is no longer supported.
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
        raise WeightsError(f"{tensor_file} is not a safetensors file ({error}); fetch the weights again.") from None
    refuse_non_finite(tensors, tensor_file)
    return migrate_gain(Weights(tensors, card))


def migrate_gain(weights: Weights) -> Weights:
    """Give weights of a gain network that were saved as learn2splat the system "gain" and its options.

    Other weights are returned unchanged.

    Raises:
        WeightsError: If an option that gain weights no longer have had another value than the one that is left.
    """
    card = weights.card
    if card.system != "learn2splat" or "rates" not in weights.tensors:
        return weights
    return replace(weights, card=replace(card, system="gain", behaviour=gain_behaviour(card.behaviour, card.source)))


def gain_behaviour(former: dict[str, Any], source: str) -> dict[str, Any]:
    """Options of gain weights from those that they had while they were of the system learn2splat.

    Args:
        former: The options of before.
        source: Where they come from, for the message.

    Raises:
        WeightsError: If an option that gain weights no longer have had another value than the one that is left.
    """
    behaviour = _GAIN_FORMER_DEFAULTS | former
    fixed = {name: behaviour.pop(name) for name in _GAIN_FIXED}
    if wrong := {name: value for name, value in fixed.items() if value != _GAIN_FIXED[name]}:
        raise WeightsError(
            f"The gain network from {source} was saved with {wrong}, and only "
            f"{ {name: _GAIN_FIXED[name] for name in wrong} } is supported; train it again with 'l2o meta-train', or "
            "use gain-mini."
        )
    behaviour.pop("seed", None)  # Seed of random latent states, which gain networks never started from.
    behaviour["query_growth"] = behaviour.pop("look_growth")
    return behaviour


def refuse_non_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise :class:`WeightsError` for NaN or infinite entries."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise WeightsError(
                f"Tensor {name!r} in {path} holds NaN or infinite numbers; use weights from another step."
            )
