"""Published networks that a training of ReSplat starts with: DINOv2 and, for error features, ResNet-18 of ImageNet.

Both are read under the names that their authors gave to the tensors, which are those of our modules.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from l2o_splat.weights.downloads import quiet_download
from l2o_splat.weights.format import WeightsError, hash_of, refuse_non_finite

DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/{0}/{0}_pretrain.pth"
DINOV2_NAMES = {"vits": "dinov2_vits14", "vitb": "dinov2_vitb14", "vitl": "dinov2_vitl14"}
"""By our name of the image transformer; models without registers."""
RESNET18 = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
"""torchvision's; the name of the file has the first digits of its SHA-256."""

_CONTAINERS = ("state_dict", "model")
_UNUSED = ("mask_token", "layer3.", "layer4.", "fc.")
"""Beginnings of names that our modules do not have: DINOv2's token of training, and the later stages of a ResNet."""


def published_backbone(vit: str | None) -> str | None:
    """Where the published tensors are: those of DINOv2 for an image transformer, else (None) those of ResNet-18.

    Returns:
        An address; None if there are none for this image transformer.
    """
    if vit is None:
        return RESNET18
    return DINOV2.format(DINOV2_NAMES[vit]) if vit in DINOV2_NAMES else None


def fetch_backbone(address: str) -> dict[str, Tensor]:
    """Published tensors from the cache of torch.hub, or downloaded into it.

    Raises:
        WeightsError: If they are not there and cannot be fetched.
    """
    try:
        with quiet_download():
            # Only torchvision's file names hold a hash.
            return torch.hub.load_state_dict_from_url(
                address, map_location="cpu", progress=False, check_hash=address == RESNET18, weights_only=True
            )
    except (OSError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise WeightsError(f"{address} is not in {torch.hub.get_dir()} and could not be fetched ({reason})") from None


def read_backbone(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.pth`` or ``.safetensors`` file; nothing but tensors and plain data is unpickled.

    Raises:
        WeightsError: If there is no such file, it is damaged, or it holds something else.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file {path}; give a .pth or .safetensors file of DINOv2 or of ResNet-18.")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise WeightsError(f"{path} cannot be read as tensors by name ({reason}); download it again.") from None
    except Exception as error:  # A pickle that holds code, or is damaged, can raise almost anything.
        raise WeightsError(f"{path} is no file of tensors alone ({type(error).__name__}); it was not read.") from None
    for container in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no tensors by name; give a state dict of DINOv2 or of ResNet-18.")
    refuse_non_finite(content, path)
    return content


def load_into(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy tensors into an image transformer or a :class:`l2o_splat.nets.resplat.update.ErrorFeatures`.

    Raises:
        WeightsError: If one is missing, has another shape, or is unknown; it names the first.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}
    own = module.state_dict()
    # Counters of batch normalisation, which older files do not have.
    kept = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")} | kept
    for name in [*own, *kept]:
        found, needed = (tuple(side[name].shape) if name in side else "none" for side in (kept, own))
        if found != needed:
            raise WeightsError(
                f"Tensor {name!r} from {source} has shape {found} and {needed} is needed; give DINOv2 without "
                "registers of the same size for the initial stage (names cls_token, blocks.0.attn.qkv.weight, ...), "
                "torchvision's ResNet-18 for the update stage."
            )
    module.load_state_dict(kept)


def name_of(path: Path) -> str:
    """How a training record names a file."""
    return f"{path.name} (SHA-256 {hash_of(path)})"
