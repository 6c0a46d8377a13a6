"""A capture of what a phone leaves: portrait, landscape and sideways photographs, with masks, in subfolders."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2o_splat.scenes.photos import pose_photos
from tests.captures import shared_capture

STRIPE = 60
"""Height of the stripe that the masks leave out, pixels of the photographs."""


@pytest.fixture(scope="module")
def posed(tmp_path_factory):
    """Seven photographs of the fox: three upright, two cut to landscape, two stored sideways."""
    pytest.importorskip("pycolmap")
    paths = sorted((shared_capture("fox") / "images").iterdir())[:7]
    folder = tmp_path_factory.mktemp("mixed")
    tag = Image.Exif()
    tag[0x112] = 6
    for number, path in enumerate(paths):
        with Image.open(path) as image:
            image = image.resize((360, 640))
        place = folder / "photos" / ("sideways" if number in (1, 4) else "landscape" if number in (2, 5) else "")
        if place.name == "landscape":
            image = image.crop((0, 200, 360, 440))
        mask = Image.new("L", image.size, 255)
        mask.paste(0, (0, image.height - STRIPE, image.width, image.height))
        (folder / "masks" / place.relative_to(folder / "photos")).mkdir(parents=True, exist_ok=True)
        mask.save(folder / "masks" / place.relative_to(folder / "photos") / f"{path.stem}.png")
        place.mkdir(parents=True, exist_ok=True)
        if place.name == "sideways":
            image.transpose(Image.Transpose.ROTATE_90).save(place / path.name, quality=95, exif=tag)
        else:
            image.save(place / path.name, quality=95)
    shares: dict[str, list[float]] = {}
    result = pose_photos(
        folder / "photos",
        folder / "out",
        progress=lambda phase, share: shares.setdefault(phase, []).append(share),
        report=lambda _: None,
    )
    return folder / "out", result, shares


def test_all_photographs_are_posed_and_every_phase_is_told(posed):
    _, result, shares = posed
    assert (result.registered, result.of, result.missing) == (7, 7, ())
    assert result.error < 1 and 1 < result.parallax < 60
    assert [str(quality).split(": ")[1][:4] for quality in result.qualities][2] == "good"
    assert [phase for phase in shares if phase not in ("global mapping", "rest")] == [
        "reading",
        "features",
        "matching",
        "mapping",
        "undistorting",
    ]
    for told in shares.values():
        assert told == sorted(told) and (told[0], told[-1]) == (0, 1)


def test_frames_have_sizes_and_masks_of_their_own(posed):
    out, _, _ = posed
    frames = json.loads((out / "transforms.json").read_text())["frames"]
    kinds = {"portrait": 0, "landscape": 0}
    for frame in frames:
        kinds["portrait" if frame["h"] > frame["w"] else "landscape"] += 1
        with Image.open(out / frame["file_path"]) as image, Image.open(out / frame["mask_path"]) as mask:
            assert image.size == mask.size == (frame["w"], frame["h"])
            kept = np.array(mask) == 255
        # The lowest rows are left out, and little else.
        assert not kept[-STRIPE // 2 :].any()
        assert kept[: -2 * STRIPE].mean() > 0.98
    assert kinds == {"portrait": 5, "landscape": 2}


def test_nothing_under_a_mask_is_a_feature(posed):
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(posed[0] / "sparse" / "0")
    for image in model.images.values():
        heights = [point.xy[1] for point in image.points2D]
        assert max(heights) < model.cameras[image.camera_id].height - STRIPE / 2


@pytest.mark.parametrize("format", ["colmap", "nerfstudio"])
def test_nerfstudio_reads_sizes_and_masks(posed, format):
    out, _, _ = posed
    options = {"data": out, "downscale_factor": 1, "eval_mode": "all"}
    if format == "colmap":
        parsers = pytest.importorskip("nerfstudio.data.dataparsers.colmap_dataparser")
        config = parsers.ColmapDataParserConfig(**options, colmap_path=Path("sparse/0"), masks_path=Path("masks"))
    else:
        parsers = pytest.importorskip("nerfstudio.data.dataparsers.nerfstudio_dataparser")
        config = parsers.NerfstudioDataParserConfig(**options)
    outputs = config.setup().get_dataparser_outputs("train")
    assert len(outputs.image_filenames) == len(outputs.mask_filenames) == 7
    sizes = zip(outputs.cameras.width.flatten().tolist(), outputs.cameras.height.flatten().tolist(), strict=True)
    for photograph, mask, size in zip(outputs.image_filenames, outputs.mask_filenames, sizes, strict=True):
        assert photograph.stem == mask.stem and mask.is_file()
        assert Image.open(photograph).size == size
