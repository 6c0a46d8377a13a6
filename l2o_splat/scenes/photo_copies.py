"""Upright JPEG copies of the photographs of a folder, with their masks, as COLMAP gets them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from l2o_splat.scenes.heif import HEIF_SUFFIXES, heif_is_readable
from l2o_splat.scenes.photo_folders import PhotosError, find_photographs, is_video, listed
from l2o_splat.scenes.photo_masks import MaskFiles
from l2o_splat.scenes.pixels import (
    PixelsError,
    is_rgb_jpeg,
    on_black,
    read_exif,
    read_header,
    read_photograph,
)
from l2o_splat.scenes.posing_phases import Progress

JPEG_QUALITY = 95

_CAMERA_TAGS = (
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.LensModel,
    ExifTags.Base.FocalLength,
    ExifTags.Base.FocalLengthIn35mmFilm,
    ExifTags.Base.DigitalZoomRatio,
)


@dataclass(frozen=True)
class Copies:
    """What COLMAP works on, by the name of the copy, in the order of these names."""

    originals: dict[str, str]
    """What each copy is a copy of, for messages."""
    cameras: dict[str, Hashable]
    """What took it: equal for photographs of one body, lens, focal length and size."""
    masked: bool = False
    """Whether each has a mask."""

    def __len__(self) -> int:
        return len(self.originals)


def copy_photographs(
    photos: Path, images: Path, masks: Path, max_size: int, progress: Progress, report: Callable[[str], None]
) -> Copies:
    """Write ``images/NAME.jpg`` for each photograph, at most ``max_size`` pixels long, and ``masks/NAME.jpg.png``.

    Masks are written for all photographs or for none.

    Raises:
        PhotosError: Fewer than two photographs can be read, or a mask does not fit its photograph.
    """
    paths = find_photographs(photos)
    report(f"Reading the photographs in {photos}{_subfolders(paths)}.")
    images.mkdir(parents=True)
    mask_files = MaskFiles.beside(photos)
    originals: dict[str, str] = {}
    cameras: dict[str, Hashable] = {}
    without_mask: list[str] = []
    unreadable, transparent, several = [], [], []
    for done, (path, name) in enumerate(zip(paths, copy_names(paths), strict=True)):
        progress("reading", done / len(paths))
        original = path.as_posix()
        try:
            header, pixels = read_header(photos / path), read_photograph(photos / path)
        except PixelsError:
            unreadable.append(original)
            continue
        if pixels.shape[2] == 4 and pixels[..., 3].min() < 255:
            transparent.append(original)
        if header.num_pictures > 1:
            several.append(original)
        exif = read_exif(photos / path)
        upright = Image.fromarray(on_black(pixels))
        cameras[name] = (upright.size, *_camera(exif))
        kept = mask_files.read(path, header)
        upright.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
        if mask_files:
            masks.mkdir(exist_ok=True)
            _write_mask(masks / f"{name}.png", kept, upright.size)
        if kept is None:
            without_mask.append(original)
        if header.orientation == 1 and upright.size == header.size and is_rgb_jpeg(photos / path):
            # The file itself, which loses nothing.
            shutil.copyfile(photos / path, images / name)
        else:
            # COLMAP takes its first guess of the focal length from the EXIF data.
            upright.save(images / name, quality=JPEG_QUALITY, subsampling=0, exif=exif)
        originals[name] = original
    _check_number(photos, len(originals), unreadable)
    progress("reading", 1.0)
    if unreadable:
        report(f"Left out {len(unreadable)} files that could not be read: {listed(unreadable)}{_heif(unreadable)}.")
    if several:
        report(f"The first picture counts of files that hold several: {listed(several)}.")
    if transparent:
        report(f"Transparent pixels become black in {len(transparent)} photographs: {listed(transparent)}.")
    masked = len(without_mask) < len(originals)
    if masked:
        report(f"Masks in {mask_files.folder} cover {len(originals) - len(without_mask)} photographs.")
    if mask_files and without_mask:
        report(
            f"WARNING: {mask_files.folder} has no mask of {len(without_mask)} photographs, of which all is kept: "
            f"{listed(without_mask)}. A mask has the name of its photograph, as IMG_1.png or IMG_1.JPG.png."
        )
    return Copies(dict(sorted(originals.items())), cameras, masked)


def copy_names(paths: list[Path]) -> list[str]:
    """A name of its own for the JPEG copy of each path: ``walk0/IMG_000.JPG`` becomes ``walk0_IMG_000.jpg``."""
    flat = ["_".join(path.parts) for path in paths]
    stems = Counter(Path(name).stem.casefold() for name in flat)
    names: list[str] = []
    taken: set[str] = set()
    for name in flat:
        stem = Path(name).stem
        base = stem if stems[stem.casefold()] == 1 else name
        unique, number = base, 2
        while unique.casefold() in taken:
            unique, number = f"{base}_{number}", number + 1
        taken.add(unique.casefold())
        names.append(f"{unique}.jpg")
    return names


def _camera(exif: Image.Exif) -> tuple[str, ...]:
    """What the EXIF data say of body, lens and focal length."""
    values = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
    return tuple(str(values.get(tag, "")).strip("\0 ") for tag in _CAMERA_TAGS)


def _write_mask(path: Path, kept: np.ndarray | None, size: tuple[int, int]) -> None:
    if kept is None:
        mask = Image.new("L", size, 255)
    else:
        # A reduced pixel is kept only if every pixel that it covers a part of is.
        mask = Image.fromarray(kept.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        mask = mask.point([0] * 255 + [255])
    mask.save(path)


def _check_number(photos: Path, readable: int, unreadable: list[str]) -> None:
    if readable >= 2:
        return
    found = f"; these could not be read: {listed(unreadable)}" if unreadable else ""
    videos = sorted(path.name for path in photos.iterdir() if is_video(path))
    remark = f". It holds a video: give the file itself ({photos / videos[0]})" if videos else ""
    raise PhotosError(
        f"{photos} holds {readable} readable photographs{found}; at least 2 are needed, in JPEG, PNG or "
        f"TIFF{_heif(unreadable)}{remark}."
    )


def _subfolders(paths: list[Path]) -> str:
    counts = Counter(path.parent.as_posix() for path in paths if path.parent != Path())
    listing = listed([f"{name} ({count})" for name, count in counts.items()])
    return f" and its subfolders {listing}" if counts else ""


def _heif(names: list[str]) -> str:
    if any(Path(name).suffix.lower() in HEIF_SUFFIXES for name in names) and not heif_is_readable():
        return " (for HEIC photographs: pip install 'l2o_splat[heic]', or convert them to JPEG)"
    return ""
