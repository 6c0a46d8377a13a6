"""Tiny folders that lie as the data sets of the papers do, from procedural captures."""

from __future__ import annotations

import functools
import json
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from l2o_splat.scenes.capture import Capture, write_points
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from tests.scenes.chunk_files import encoded, write_folder


@functools.cache
def capture(seed: int, views: int = 17, width: int = 64, height: int = 48) -> Capture:
    """A procedural capture with a few points."""
    options = ProceduralOptions(num_views=views, width=width, height=height, num_points=150, trajectory="orbit")
    return generate(seed, options)


def photographs(of: Capture) -> list[Image.Image]:
    return [Image.fromarray((image * 255).round().byte().numpy()) for image in of.views.images]


def save_photographs(of: Capture, folder: Path, names: list[str], factor: int = 1) -> None:
    """Photographs, or copies with sides divided by a factor."""
    folder.mkdir(parents=True)
    for name, image in zip(names, photographs(of), strict=True):
        image.resize((image.width // factor, image.height // factor), Image.Resampling.BOX).save(folder / name)


def write_model(folder: Path, of: Capture, names: list[str], binary: bool = True, k1: float = 0.0) -> None:
    """A COLMAP model: one camera, photographs in reverse order, as a reader must not rely on any."""
    folder.mkdir(parents=True)
    cameras, points = of.views.cameras, of.points
    K = cameras.Ks[0].double()
    lens = (cameras.width, cameras.height, float(K[0, 0]), float(K[0, 2]), float(K[1, 2]), k1)
    rows = []
    for number, (name, viewmat) in enumerate(zip(names, cameras.viewmats.double().numpy(), strict=True)):
        x, y, z, w = Rotation.from_matrix(viewmat[:3, :3]).as_quat()
        rows.append((number + 1, (w, x, y, z, *viewmat[:3, 3]), name))
    rows.reverse()
    places = points.xyz.double().numpy()
    colours = (points.rgb * 255).round().byte().numpy()
    if binary:
        # SIMPLE_RADIAL is model 2.
        (folder / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 2, *lens))
        images = struct.pack("<Q", len(rows))
        for number, pose, name in rows:
            images += struct.pack("<i7di", number, *pose, 7) + name.encode() + b"\0"
            images += struct.pack("<Q2dq", 1, 3.0, 4.0, 1)
        (folder / "images.bin").write_bytes(images)
        lines = struct.pack("<Q", len(places))
        for number, (place, colour) in enumerate(zip(places, colours, strict=True)):
            lines += struct.pack("<Q3d3BdQii", number + 1, *place, *colour, 0.5, 1, 1, 0)
        (folder / "points3D.bin").write_bytes(lines)
        return
    width, height, *parameters = lens
    (folder / "cameras.txt").write_text(
        f"# Cameras\n7 SIMPLE_RADIAL {width} {height} {' '.join(map(str, parameters))}\n"
    )
    text = "# Images\n"
    for number, pose, name in rows:
        text += f"{number} {' '.join(map(repr, map(float, pose)))} 7 {name}\n\n"
    (folder / "images.txt").write_text(text)
    lines = [
        f"{i + 1} {' '.join(map(str, place))} {' '.join(map(str, colour))} 0.5 1 0"
        for i, (place, colour) in enumerate(zip(places, colours, strict=True))
    ]
    (folder / "points3D.txt").write_text("# Points\n" + "\n".join(lines) + "\n")


def numbered(count: int, pattern: str = "IMG_{:04d}.png") -> list[str]:
    return [pattern.format(number) for number in range(count)]


def write_mipnerf360(folder: Path, scenes=("garden", "kitchen"), width: int = 64, height: int = 48) -> Path:
    """Photographs with copies of a quarter of their sides."""
    for seed, name in enumerate(scenes):
        of, names = capture(seed, 17, width, height), numbered(17)
        save_photographs(of, folder / name / "images", names)
        save_photographs(of, folder / name / "images_4", names, 4)
        write_model(folder / name / "sparse/0", of, names)
    return folder


def write_llff(folder: Path) -> Path:
    """``fern`` with a COLMAP model and copies under other names, ``trex`` with poses_bounds.npy alone."""
    of, names = capture(2), numbered(17)
    save_photographs(of, folder / "fern/images", names)
    save_photographs(of, folder / "fern/images_4", numbered(17, "image{:03d}.png"), 4)
    write_model(folder / "fern/sparse/0", of, names, k1=0.02)
    other = capture(3)
    save_photographs(other, folder / "trex/images", names)
    cameras = other.views.cameras
    poses = torch.linalg.inv(cameras.viewmats.double()).numpy()
    right, down, forward, centre = np.moveaxis(poses[:, :3], 2, 0)
    lens = np.tile([cameras.height, cameras.width, float(cameras.Ks[0, 0, 0])], (17, 1))
    rows = np.stack([down, right, -forward, centre, lens], axis=2).reshape(17, 15)
    np.save(folder / "trex/poses_bounds.npy", np.concatenate([rows, np.tile([1.0, 9.0], (17, 1))], axis=1))
    return folder


def write_dtu(folder: Path) -> Path:
    """``scan24`` as 2DGS distributes it (a COLMAP model as text), ``scan37`` as NeuS does."""
    of = capture(4)
    save_photographs(of, folder / "scan24/images", numbered(17, "{:04d}.png"))
    write_model(folder / "scan24/sparse/0", of, numbered(17, "{:04d}.png"), binary=False)
    other = capture(5)
    save_photographs(other, folder / "scan37/image", numbered(17, "{:06d}.png"))
    matrices = {}
    for view, (K, viewmat) in enumerate(zip(other.views.cameras.Ks, other.views.cameras.viewmats, strict=True)):
        matrix = np.eye(4)
        matrix[:3] = K.double().numpy() @ viewmat[:3].double().numpy() * (-2.0 if view % 2 else 3.0)
        matrices[f"world_mat_{view}"] = matrix
    np.savez(folder / "scan37/cameras_sphere.npz", **matrices)
    return folder


def write_scannetpp(folder: Path) -> Path:
    """Two scenes; frames 3 and 12 are test frames, frame 5 is bad."""
    for seed, name in enumerate(("0a5c013435", "0a7cc12c0e")):
        of, names, dslr = capture(6 + seed), numbered(17, "DSC{:05d}.JPG"), folder / "data" / name / "dslr"
        save_photographs(of, dslr / "resized_undistorted_images", names)
        write_model(dslr / "colmap", of, names, binary=False)
        cameras, eye = of.views.cameras, np.eye(4).tolist()
        K = cameras.Ks[0].tolist()
        frames = [{"file_path": name, "transform_matrix": eye, "is_bad": name == names[5]} for name in names]
        meta = {"fl_x": K[0][0], "fl_y": K[1][1], "cx": K[0][2], "cy": K[1][2], "w": cameras.width, "h": cameras.height}
        meta |= {
            "frames": [frame for i, frame in enumerate(frames) if i not in (3, 12)],
            "test_frames": [frames[3], frames[12]],
        }
        (dslr / "nerfstudio").mkdir()
        (dslr / "nerfstudio/transforms_undistorted.json").write_text(json.dumps(meta))
    return folder


def write_chunks(
    folder: Path, seeds=(8, 9), views: int = 24, width: int = 64, height: int = 48, points: bool = False
) -> Path:
    """Scenes ``scene8`` and ``scene9`` in one chunk, below ``test``, with their points in ``points`` if asked for."""
    entries = []
    for seed in seeds:
        of = capture(seed, views, width, height)
        cameras, rows = of.views.cameras, torch.zeros(views, 18)
        rows[:, 0], rows[:, 1] = cameras.Ks[:, 0, 0] / width, cameras.Ks[:, 1, 1] / height
        rows[:, 2:4] = 0.5
        rows[:, 6:] = cameras.viewmats[:, :3].reshape(views, 12)
        images = [encoded(np.asarray(image)) for image in photographs(of)]
        entries.append({"key": f"scene{seed}", "cameras": rows, "images": images})
        if points:
            (folder / "points").mkdir(parents=True, exist_ok=True)
            write_points(folder / f"points/scene{seed}.ply", of.points)
    write_folder(folder / "test", entries)
    return folder
