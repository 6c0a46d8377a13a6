"""Load weights by name, path, location on the hub, or seed."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.weights.catalogue import CATALOGUE, fetch
from l2o_splat.weights.format import System, Weights, WeightsCard, WeightsError, file_pair, read_weights
from l2o_splat.weights.imported import IMPORTABLE, how_to_import, imported
from l2o_splat.weights.original import SUFFIXES, read_original
from l2o_splat.weights.shipped import ALIASES, SHIPPED


def load_weights(
    reference: str | Path, system: System | tuple[System, ...] | None = None, strict: bool = True
) -> Weights:
    """Load weights to the CPU.

    Args:
        reference: The name of weights that come with the package or were imported, a path (``.safetensors`` with its
            ``.json``, the same without suffix, an original ``.ckpt`` or ``.pth``, or a folder that holds one of these),
            ``hf://owner/repo/path/to/file[@revision]``, a catalogue name, or ``random:SEED`` for learn2splat weights
            that are set by hand to follow Adam.
        system: System, or systems, that the weights may be of; None accepts all.
        strict: Refuse original files with tensors that the network does not have, see :func:`read_original`.

    Raises:
        WeightsError: If the weights cannot be found, are damaged, or are of another system.
    """
    text = ALIASES.get(str(reference), str(reference))
    if text.startswith("random:"):
        weights = _random_weights(text)
    elif text in SHIPPED:
        weights = read_weights(SHIPPED[text])
    elif text in IMPORTABLE:
        file = imported(text)
        if file is None:
            raise WeightsError(f"{text} was not imported yet; with a network: {how_to_import()}.")
        weights = read_weights(file)
    elif text in CATALOGUE:
        entry = CATALOGUE[text]
        local, location = fetch(entry.location)
        weights = read_original(local, entry.system, strict)
        card = replace(weights.card, licence=entry.licence, scene_frame=entry.scene_frame, source=location)
        weights = replace(weights, card=replace(card, raster=card.raster or entry.raster))
    elif text.startswith("hf://"):
        local, location = fetch(text)
        weights = _read(local, strict)
        if weights.card.sha256 is None:
            weights = replace(weights, card=replace(weights.card, source=location))
    else:
        weights = _read(_find(Path(reference)), strict)
    size = sum(tensor.nbytes for tensor in weights.tensors.values())
    weights = replace(weights, card=replace(weights.card, name=Path(text).name, num_bytes=size))
    if system is None:
        return weights
    return weights.require(system) if isinstance(system, str) else weights.require(*system)


def _read(path: Path, strict: bool) -> Weights:
    return read_original(path, strict=strict) if path.suffix in SUFFIXES else read_weights(path)


def _find(path: Path) -> Path:
    """The file that a local path refers to."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix == ".safetensors")
        found = found or sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        if len(found) != 1:
            names = [file.name for file in found]
            raise WeightsError(f"The folder {path} holds {len(found)} weights files {names}; give the path of one.")
        return found[0]
    if not path.exists() and not file_pair(path)[0].exists():
        known = ", ".join([*SHIPPED, *IMPORTABLE, *CATALOGUE])
        raise WeightsError(
            f"{path} is neither a file or folder nor a known name ({known}); give one of these, "
            "hf://owner/repo/file or random:SEED."
        )
    return path


def _random_weights(reference: str) -> Weights:
    seed = reference.removeprefix("random:")
    if not seed.isdecimal():
        raise WeightsError(f"{reference!r} does not name a seed; random:0 does.")
    shape = Learn2SplatNetworkShape()
    tensors = Learn2SplatNetwork(shape).reset_to_adam(int(seed)).plain_tensors()
    card = WeightsCard("learn2splat", asdict(shape), licence="none", source=reference, training={"trained": False})
    return Weights(tensors, card)
