"""Reads the original files: Learn2Splat's Lightning checkpoints and ReSplat's ``.pth`` files.

Only tensors and plain data are read; a pickle that holds code is refused.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2o_splat.nets.learn2splat_network import Learn2SplatNetworkShape
from l2o_splat.weights.format import System, Weights, WeightsCard, WeightsError, refuse_non_finite
from l2o_splat.weights.resplat_original import is_resplat, read_resplat

SUFFIXES = (".ckpt", ".pth", ".pt")

_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.PickleError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch raises for files that are damaged, or hold code."""

_RENAMED_SEGMENTS = {
    "update_proj": "state_proj",
    "update_module": "point_transformer",
    "update_head": "delta_head",
    "update_input_norm": "input_norm",
    "update_feature": "error_feature_extractor",
}
"""Names in files that follow ReSplat's naming, and the names of the released Learn2Splat module."""

_LEARN2SPLAT_PARTS = ("state_proj", "point_transformer", "state_scale_head", "delta_head")

_REQUIRED = {
    "pt_heads": 1,
    "pt_qk_norm": False,
    "norm_pt_block": False,
    "no_tran_block_norm": False,
    "tran_block_act": "gelu",
    "input_gradient": True,
    "input_error": False,
    "concat_init_state": False,
    "condition_pt_feature": True,
    "predict_state_scale": True,
    "delta_head_layer_num": 2,
    "delta_head_scalar_scale": True,
    "per_param_heads": False,
    "per_param_scales": False,
    "use_time_encoding": False,
    "opt_scales_before_act": True,
}
"""Settings of the original configuration that change the network or the update; only these values are supported."""


def read_original(path: Path, system: System | None = None, strict: bool = True) -> Weights:
    """Read weights from an original file.

    Args:
        path: A ``.ckpt``, ``.pth`` or ``.pt`` file. A ``config.yaml`` beside it, or beside its folder
            ``checkpoints``, is read as well.
        system: System that the file must be of; None accepts both.
        strict: Refuse Learn2Splat files with tensors that the network does not have; otherwise these are left
            out, and the training record names them.

    Raises:
        WeightsError: If the file is damaged, holds code, or is of another architecture.
    """
    state_dict, other = _state_dict(_load(path), path)
    optimizer = _optimizer_tensors(state_dict)
    found: System | None = None
    if any(name.split(".")[0] in _LEARN2SPLAT_PARTS for name in optimizer):
        found = "learn2splat"
    elif is_resplat(state_dict):
        found = "resplat"
    if found is None or (system is not None and system != found):
        some = ", ".join(sorted(state_dict)[:3])
        raise WeightsError(
            f"{path} holds {len(state_dict)} tensors ({some}, ...), which are of {found or 'no known method'}; "
            f"{system or 'learn2splat or resplat'} weights are needed."
        )
    training = {"original_file": path.name} | other
    if found == "resplat":
        return read_resplat(state_dict, path, training)
    tensors, dropped = _known_tensors(optimizer, path, strict)
    if dropped:
        training["dropped_tensors"] = dropped
    behaviour, raster, settings = _read_config(path)
    if settings:
        training["config"] = settings
    refuse_non_finite(tensors, path)
    return Weights(
        tensors,
        WeightsCard(
            "learn2splat",
            asdict(Learn2SplatNetworkShape.of(tensors)),
            behaviour=behaviour,
            raster=raster,
            source=str(path),
            training=training,
        ),
    )


def _load(path: Path) -> Any:
    if not path.exists():
        raise WeightsError(f"There is no {path}; give the path of a file that exists.")
    try:
        # Memory-mapped, so that only tensors that are kept are read. The format before torch 1.6 cannot be mapped.
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _DAMAGE as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise WeightsError(
                f"{path} holds more than tensors and plain data, and code in a pickle ({code[1]}) is not run here; "
                "save its state_dict alone with torch.save."
            ) from None
        reason = str(error).split("\n")[0]
        raise WeightsError(f"{path} is truncated or not a torch file ({reason}); download it again.") from None


def _state_dict(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The named tensors, and the checkpoint's epoch and step."""
    record = {}
    if isinstance(content, Mapping):
        record = {key: content[key] for key in ("epoch", "global_step") if isinstance(content.get(key), int)}
        for container in ("state_dict", "model"):
            if isinstance(content.get(container), Mapping):
                content = content[container]
                break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{path} holds a {type(content).__name__} without tensors; a state dict is needed, bare or in 'state_dict'."
        )
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) != len(content):
        some = sorted(str(name) for name in content.keys() - tensors.keys())[:3]
        raise WeightsError(f"{path} has entries without a tensor ({some}); a state dict of tensors is needed.")
    return tensors, record


def _optimizer_tensors(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the update network, named as in the released module."""
    names = {name: name.replace("scene_trainer.", "", 1) for name in state_dict}
    if any(name.startswith("optimizer.") for name in names.values()):
        names = {old: name.removeprefix("optimizer.") for old, name in names.items() if name.startswith("optimizer.")}
    renamed = {}
    for old, name in names.items():
        segments = name.split(".")
        renamed[".".join(_RENAMED_SEGMENTS.get(segment, segment) for segment in segments)] = state_dict[old]
    return renamed


def _known_tensors(tensors: dict[str, Tensor], path: Path, strict: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Copies in float32 of the tensors that the network has, and the names of all others."""
    known = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in _LEARN2SPLAT_PARTS}
    other = sorted(tensors.keys() - known.keys())
    if other and strict:
        raise WeightsError(
            f"{path} has tensors that the update network lacks ({', '.join(other[:3])}); it may be of a variant that "
            "is not supported: leave them out with strict off only if the variant computes the same."
        )
    try:
        Learn2SplatNetworkShape.of(known)
    except ValueError as error:
        raise WeightsError(f"{path} is of another architecture: {error}") from None
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in known.items()}, other


def _read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any]]:
    """Behaviour, raster settings and all settings from the ``config.yaml`` of a checkpoint."""
    folder = path.absolute().parent
    folders = [folder, folder.parent] if folder.name == "checkpoints" else [folder]
    config_file = next((folder / "config.yaml" for folder in folders if (folder / "config.yaml").exists()), None)
    if config_file is None:
        return {}, None, {}
    import yaml

    try:
        content = yaml.safe_load(config_file.read_text(encoding="utf-8"))
        trainer = content["scene_trainer"]
        settings = trainer["scene_optimizer"]
        found = {name: settings[name] for name in _REQUIRED if name in settings}
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{config_file} has no readable scene_trainer.scene_optimizer ({type(error).__name__}: {error}); "
            "fetch it again, or move it away to convert with the settings of the released weights."
        ) from None
    wrong = {name: value for name, value in found.items() if value != _REQUIRED[name]}
    wrong |= {name: value for name, value in settings.items() if name.startswith("freeze_") and value}
    if wrong:
        needed = {name: _REQUIRED.get(name, False) for name in wrong}
        raise WeightsError(f"{config_file} says {wrong}, a variant that is not supported; {needed} is.")
    behaviour = {
        ours: settings[theirs]
        for theirs, ours in {
            "knn_samples": "neighbours",
            "update_only_nonzero_grad": "active_only",
            "knn_idx_update_every": "knn_refresh_interval",
        }.items()
        if theirs in settings
    }
    if "init_state_type" in settings:
        kind, scale = settings["init_state_type"], settings.get("init_state_scale", 1.0)
        if scale != 0 and (kind, scale) != ("random", 1):
            raise WeightsError(f"{config_file} starts states as {kind} x {scale}; random x 1, or x 0, is supported.")
        behaviour["latent_init"] = "random" if scale else "zeros"
    decoder = trainer.get("decoder") or {}
    raster = {name: decoder[name] for name in ("rasterize_mode", "eps2d") if name in decoder}
    return behaviour, raster or None, settings
