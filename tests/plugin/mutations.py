"""Small ways in which captures are broken, drawn by a seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from PIL import Image

Random = np.random.Generator

WRONG = [None, "", "nine", "1.5", -1, 0, 1e30, float("nan"), float("inf"), True, [], {}, [1, 2], {"a": 1}, 10**400]
"""Values that a field may hold instead of its own."""

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16", "F"]
"""Pillow modes in which photographs and masks are saved."""
FORMATS = {"CMYK": "tiff", "YCbCr": "tiff", "HSV": "png", "LAB": "tiff", "PA": "png", "F": "tiff", "I": "tiff"}


def _meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "transforms.json").read_text())


def _write(folder: Path, meta: Any) -> None:
    (folder / "transforms.json").write_text(json.dumps(meta))


def _container(meta: dict[str, Any], random: Random) -> Any:
    """The file's top level, one of its frames, a matrix or one of its rows."""
    frame = meta["frames"][int(random.integers(len(meta["frames"])))]
    return [meta, meta, frame, frame, frame["transform_matrix"], frame["transform_matrix"][int(random.integers(4))]][
        int(random.integers(6))
    ]


def _key(container: Any, random: Random) -> Any:
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    return keys[int(random.integers(len(keys)))]


def remove_field(folder: Path, random: Random) -> str:
    """A field, a row or a number is missing."""
    meta = _meta(folder)
    container = _container(meta, random)
    key = _key(container, random)
    del container[key]
    _write(folder, meta)
    return f"removed {key}"


def wrong_field(folder: Path, random: Random) -> str:
    """A field holds a value of another type or out of range."""
    meta = _meta(folder)
    container = _container(meta, random)
    key, value = _key(container, random), WRONG[int(random.integers(len(WRONG)))]
    container[key] = value
    _write(folder, meta)
    return f"{key} = {str(value)[:20]}"


def extra_field(folder: Path, random: Random) -> str:
    """A field that nerfstudio knows is added with a value that it may not have."""
    meta = _meta(folder)
    names = ["camera_model", "k1", "k4", "p1", "mask_path", "depth_file_path", "applied_transform", "applied_scale"]
    names += ["train_filenames", "camera_angle_x", "orientation_override", "is_fisheye_crop", "fps"]
    name, value = names[int(random.integers(len(names)))], WRONG[int(random.integers(len(WRONG)))]
    target = meta if random.random() < 0.6 else meta["frames"][int(random.integers(len(meta["frames"])))]
    target[name] = value
    _write(folder, meta)
    return f"{name} = {str(value)[:20]}"


def broken_json(folder: Path, random: Random) -> str:
    """The file is cut, empty, of another kind, or in another encoding."""
    path = folder / "transforms.json"
    content = path.read_bytes()
    kinds = [content[: int(random.integers(len(content)))], b"", b"[]", b"null", b'"text"', b"\xff\xfe\x00", b"{}"]
    path.write_bytes(kinds[int(random.integers(len(kinds)))])
    return "broken transforms.json"


def broken_points(folder: Path, random: Random) -> str:
    """The file of points is missing, cut, of another kind, without colours, or holds odd numbers."""
    path = folder / "points.ply"
    text = path.read_text()
    header, body = text.split("end_header\n")
    lines = body.splitlines()
    bare = header.replace("property uchar red\nproperty uchar green\nproperty uchar blue\n", "")
    choice = int(random.integers(11))
    if choice == 0:
        path.unlink()
        return "no PLY"
    if choice == 1:
        path.unlink()
        path.mkdir()
        return "a folder in place of the PLY"
    values = {
        2: text[: int(random.integers(len(text)))],
        3: "",
        4: "this is no PLY\n" * 20,
        5: f"{bare}end_header\n" + "\n".join(" ".join(line.split()[:3]) for line in lines) + "\n",
        6: f"{header}end_header\n" + "\n".join([f"nan nan nan {line.split(maxsplit=3)[3]}" for line in lines]) + "\n",
        7: header.replace("vertex 60", "vertex 0") + "end_header\n",
        8: header.replace("vertex 60", "vertex 6000000") + f"end_header\n{body}",
        9: f"{header}end_header\n" + "\n".join([lines[0]] * 60) + "\n",
        10: f"{header}end_header\n" + "\n".join([f"1e30 0 0 {lines[0].split(maxsplit=3)[3]}", *lines[1:]]) + "\n",
    }
    path.write_text(values[choice])
    return f"points {choice}"


def one_place(folder: Path, random: Random) -> str:
    """All cameras stand in one place, or all but one."""
    meta = _meta(folder)
    for frame in meta["frames"][int(random.integers(2)) :]:
        for row, value in zip(frame["transform_matrix"], meta["frames"][3]["transform_matrix"], strict=True):
            row[3] = value[3]
    _write(folder, meta)
    return "cameras in one place"


def far_away(folder: Path, random: Random) -> str:
    """The capture lies far from the origin of its coordinates."""
    meta = _meta(folder)
    offset = 10.0 ** random.uniform(3, 9)
    for frame in meta["frames"]:
        frame["transform_matrix"][0][3] += offset
    _write(folder, meta)
    return f"moved by {offset:.3g}"


def few_frames(folder: Path, random: Random) -> str:
    """Photographs were taken out."""
    meta = _meta(folder)
    meta["frames"] = meta["frames"][: int(random.integers(4))]
    _write(folder, meta)
    return f"{len(meta['frames'])} frames"


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode in ("I", "F"):
        values = np.asarray(image.convert("L"))
        return Image.fromarray(values.astype(np.int32) * 257 if mode == "I" else values.astype(np.float32) / 255)
    if mode == "PA":
        return image.convert("RGBA").convert("PA")
    if mode == "LAB":
        from PIL import ImageCms

        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    return image.convert(mode)


def _save(image: Image.Image, path: Path, mode: str, random: Random) -> None:
    """In the mode, or another one that the format has, under the same name whatever the format."""
    options = {}
    if random.random() < 0.3:
        exif = Image.Exif()
        exif[0x112] = int(random.integers(1, 9))
        options["exif"] = exif.tobytes()
    try:
        _in_mode(image, mode).save(path, format=FORMATS.get(mode, "png"), **options)
    except (OSError, ValueError):
        image.save(path, format="png", **options)


def photograph_mode(folder: Path, random: Random) -> str:
    """Some photographs are saved in another mode, and perhaps with a tag that says how they are turned."""
    mode = MODES[int(random.integers(len(MODES)))]
    for path in sorted((folder / "images").iterdir())[:: int(random.integers(1, 4))]:
        _save(Image.open(path).convert("RGB"), path, mode, random)
    return f"photographs in {mode}"


def broken_photograph(folder: Path, random: Random) -> str:
    """A photograph is missing, cut, empty, of another size or no image."""
    paths = sorted((folder / "images").iterdir())
    path = paths[int(random.integers(len(paths)))]
    content = path.read_bytes()
    choice = int(random.integers(7))
    if choice == 0:
        path.unlink()
    elif choice == 1:
        path.unlink()
        path.mkdir()
    elif choice < 5:
        path.write_bytes([content[: int(random.integers(1, len(content)))], b"", b"text"][choice - 2])
    else:
        Image.open(path).resize((1, 1) if choice == 5 else (47, 36)).save(path)
    return f"photograph {choice}"


def broken_masks(folder: Path, random: Random) -> str:
    """Masks in any mode; absent, of another size, partly missing, cut or empty."""
    meta = _meta(folder)
    (folder / "masks").mkdir()
    mode, fault = MODES[int(random.integers(len(MODES)))], int(random.integers(7))
    for number, frame in enumerate(meta["frames"]):
        path = folder / "masks" / f"{number:03d}.png"
        size = (int(meta["w"]) - (fault == 1), int(meta["h"]))
        values = np.full(size[::-1], 0 if fault == 2 else 255, np.uint8)
        values[:5, :5] = 0
        _save(Image.fromarray(values).convert("RGB"), path, mode, random)
        frame["mask_path"] = f"masks/{path.name}"
    if fault == 3:
        (folder / "masks/002.png").unlink()
    if fault == 4:
        del meta["frames"][int(random.integers(len(meta["frames"])))]["mask_path"]
    if fault == 5:
        (folder / "masks/004.png").write_bytes((folder / "masks/004.png").read_bytes()[:40])
    if fault == 6:
        meta["frames"][3]["mask_path"] = WRONG[int(random.integers(len(WRONG)))]
    _write(folder, meta)
    return f"masks in {mode}, fault {fault}"


def colmap_model(folder: Path) -> None:
    """Put a COLMAP model of the same capture beside its transforms."""
    meta, model = _meta(folder), pycolmap.Reconstruction()
    size, focal = (meta["w"], meta["h"]), meta["fl_x"]
    camera = pycolmap.Camera(
        camera_id=1, model="PINHOLE", width=size[0], height=size[1], params=[focal, focal, size[0] / 2, size[1] / 2]
    )
    model.add_camera_with_trivial_rig(camera)
    for number, frame in enumerate(meta["frames"], 1):
        pose = np.array(frame["transform_matrix"])
        rotation = (pose[:3, :3] * [1, -1, -1]).T
        image = pycolmap.Image(name=Path(frame["file_path"]).name, camera_id=1, image_id=number)
        rigid = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ pose[:3, 3])
        model.add_image_with_trivial_frame(image, rigid)
    for line in (folder / "points.ply").read_text().split("end_header\n")[1].splitlines():
        values = line.split()
        colour = np.array(values[3:], np.uint8)
        model.add_point3D(np.array(values[:3], float), pycolmap.Track(), colour)
    (folder / "sparse/0").mkdir(parents=True)
    model.write_binary(str(folder / "sparse/0"))


def broken_colmap(folder: Path, random: Random) -> str:
    """A file of the COLMAP model is missing, cut, empty, or some of its bytes are others."""
    names = ["cameras.bin", "images.bin", "points3D.bin"]
    path = folder / "sparse/0" / names[int(random.integers(3))]
    content, choice = bytearray(path.read_bytes()), int(random.integers(5))
    if choice == 0:
        path.unlink()
        return f"no {path.name}"
    if choice == 1:
        content = content[: int(random.integers(len(content)))]
    elif choice == 2:
        content = bytearray()
    else:
        for place in random.integers(len(content), size=int(random.integers(1, 4))):
            content[place] = int(random.integers(256))
    path.write_bytes(bytes(content))
    return f"{path.name} {choice}"


MUTATIONS: list[tuple[Callable[[Path, Random], str], int]] = [
    (remove_field, 40),
    (wrong_field, 80),
    (extra_field, 40),
    (broken_json, 15),
    (broken_points, 35),
    (one_place, 4),
    (far_away, 8),
    (few_frames, 8),
    (photograph_mode, 40),
    (broken_photograph, 20),
    (broken_masks, 40),
    (broken_colmap, 50),
]
"""Mutations and how often each is drawn."""


def copy_of(capture: Path, folder: Path) -> Path:
    """A fresh copy of a capture, in place of what the folder held."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(capture, folder)
    return folder
