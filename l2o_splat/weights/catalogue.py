"""Published weights by name, and downloads from the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from l2o_splat.frame import FrameConvention
from l2o_splat.weights import resplat_zoo
from l2o_splat.weights.format import System, WeightsError


@dataclass(frozen=True)
class CatalogueEntry:
    """Published weights, and what their file does not say."""

    name: str
    system: System
    location: str
    """``hf://owner/repo/path/to/file``, with ``@revision`` if one is pinned."""
    description: str
    licence: str
    raster: dict[str, Any] | None = None
    """Raster settings used in training, see ``WeightsCard``."""
    scene_frame: FrameConvention = "raw"


CATALOGUE = {
    entry.name: entry
    for entry in [
        CatalogueEntry(
            name="learn2splat",
            system="learn2splat",
            location="hf://autonomousvision/learn2splat/joint/checkpoints/epoch_7-step_150000.ckpt",
            description="Joint model for sparse and dense views, 8 views per step (arXiv 2605.15760).",
            licence="CC-BY-4.0; attribution: Learn2Splat, Pearl et al., arXiv 2605.15760, "
            "huggingface.co/autonomousvision/learn2splat",
            raster={"rasterize_mode": "classic", "eps2d": 1e-4},
        ),
        *(
            CatalogueEntry(
                name=entry.name,
                system="resplat",
                location=f"hf://{resplat_zoo.REPOSITORY}/{entry.file}",
                description=entry.description,
                licence=resplat_zoo.LICENCE,
                raster=resplat_zoo.RASTER,
            )
            for entry in resplat_zoo.ZOO
        ),
    ]
}


@dataclass(frozen=True)
class HubFile:
    """One file on the Hugging Face Hub."""

    repository: str
    """owner/name"""
    path: str
    revision: str | None

    @classmethod
    def parse(cls, location: str) -> HubFile:
        """Parse ``hf://owner/repo/path/to/file[@revision]``.

        Raises:
            WeightsError: If the location has another form.
        """
        path, _, revision = location.removeprefix("hf://").partition("@")
        parts = path.split("/")
        if not location.startswith("hf://") or len(parts) < 3 or not all(parts):
            raise WeightsError(
                f"{location!r} is not the location of a file on the hub; give hf://owner/repo/path/to/file[@revision]."
            )
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision or None)

    def is_cached(self) -> bool:
        """Whether the file is in the hub's local cache."""
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repository, self.path, revision=self.revision), str)

    @property
    def companions(self) -> list[str]:
        """Files that may exist beside it: the JSON of this package's format, or the settings of an original file."""
        path = PurePosixPath(self.path)
        if path.suffix == ".safetensors":
            return [str(path.with_suffix(".json"))]
        return [str(folder / "config.yaml") for folder in list(path.parents)[:2]]


def fetch(location: str) -> tuple[Path, str]:
    """Download a file from the hub and those of its companions that exist, unless they are in the hub's local cache.

    Args:
        location: ``hf://owner/repo/path/to/file[@revision]``.

    Returns:
        The local path, and the location with the revision that was downloaded.

    Raises:
        WeightsError: If the file does not exist or cannot be downloaded.
    """
    wanted = HubFile.parse(location)
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError:
        raise WeightsError(
            "huggingface_hub is not installed; 'pip install huggingface_hub' to fetch weights."
        ) from None

    def download(path: str) -> Path:
        return Path(hf_hub_download(wanted.repository, path, revision=wanted.revision))

    try:
        local = download(wanted.path)
    except LocalEntryNotFoundError:
        raise WeightsError(
            f"{location} is not in the local cache and the hub cannot be reached; connect to the network, or fetch it "
            "on another machine and give the path of the file."
        ) from None
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        what = "file" if isinstance(error, EntryNotFoundError) else "public repository or revision"
        raise WeightsError(f"The hub has no such {what} as {location}; check the name on huggingface.co.") from None
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise WeightsError(
            f"{location} could not be fetched ({type(error).__name__}: {reason}); try again, or fetch it on another "
            "machine and give the path of the file."
        ) from None
    for companion in wanted.companions:
        try:
            download(companion)
        except (OSError, ValueError, EntryNotFoundError):
            continue  # Optional; a missing JSON is reported when the weights are read.
    folders = local.parts
    revision = folders[folders.index("snapshots") + 1] if "snapshots" in folders else wanted.revision
    return local, f"hf://{wanted.repository}/{wanted.path}" + (f"@{revision}" if revision else "")
