"""A tiny capture on disk in nerfstudio's format, and short runs of the registered methods on it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.plugins.registry import discover_methods
from PIL import Image
from scipy.spatial.transform import Rotation

from l2o_splat.plugin.datamanager import L2ODataManager, L2ODataManagerConfig

WIDTH, HEIGHT, FOCAL, NUM_VIEWS = 48, 36, 50.0, 9


def look_at_origin(centre) -> np.ndarray:
    """Camera-to-world matrix, OpenGL axes, up is +z."""
    centre = np.asarray(centre)
    back = centre / np.linalg.norm(centre)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, centre], axis=1)
    return pose


def write_tiny_capture(folder: Path, num_views: int = NUM_VIEWS, points: bool = True) -> Path:
    """Cameras on an arc around coloured blobs; images 0 and 8 are held out at an interval of 8."""
    random = np.random.default_rng(0)
    blobs, colours = random.normal(size=(60, 3)) * 0.35, random.uniform(0.1, 1.0, size=(60, 3))
    (folder / "images").mkdir(parents=True)
    frames = []
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    for view in range(num_views):
        angle = 0.15 * view
        pose = look_at_origin(3 * np.array([np.cos(angle), np.sin(angle), 0.3]))
        in_camera = (blobs - pose[:3, 3]) @ pose[:3, :3]
        u = WIDTH / 2 + FOCAL * in_camera[:, 0] / -in_camera[:, 2]
        v = HEIGHT / 2 - FOCAL * in_camera[:, 1] / -in_camera[:, 2]
        weights = np.exp(-((columns - u[:, None, None]) ** 2 + (rows - v[:, None, None]) ** 2) / 8)
        image = np.einsum("phw,pc->hwc", weights, colours) / (1 + weights.sum(axis=0))[..., None]
        name = f"images/{view:03d}.png"
        Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    meta = {"w": WIDTH, "h": HEIGHT, "fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "frames": frames}
    if points:
        meta["ply_file_path"] = "points.ply"
        header = "ply\nformat ascii 1.0\nelement vertex 60\nproperty float x\nproperty float y\nproperty float z\n"
        header += "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
        lines = [
            " ".join([*map(str, xyz), *map(str, (rgb * 255).astype(int))])
            for xyz, rgb in zip(blobs, colours, strict=True)
        ]
        (folder / "points.ply").write_text(header + "\n".join(lines) + "\n")
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


def edit_transforms(folder: Path, edit) -> None:
    """Apply ``edit`` to the parsed transforms.json and write it back."""
    meta = json.loads((folder / "transforms.json").read_text())
    edit(meta)
    (folder / "transforms.json").write_text(json.dumps(meta))


def method_config(capture: Path, output_dir: Path, method: str = "l2o-adam", steps: int = 10) -> TrainerConfig:
    """A short run as ``ns-train METHOD --preset plain --data CAPTURE`` would configure it."""
    config = deepcopy(discover_methods()[0][method])
    config.data = config.pipeline.datamanager.data = capture
    config.pipeline.datamanager.dataparser.eval_mode = "interval"
    config.pipeline.datamanager.dataparser.eval_interval = 8
    config.pipeline.datamanager.views_per_step = 3
    config.output_dir = output_dir
    config.max_num_iterations, config.preset = steps, "plain"
    optimizer = config.optimizers["gaussians"]["optimizer"]
    optimizer.horizon = 100
    if method == "learn2splat":
        optimizer.weights = "random:0"
    config.vis = "tensorboard"
    config.timestamp = "run"
    config.logging.local_writer.enable = False
    config.machine.device_type = "cpu"
    return config


def train(config: TrainerConfig):
    """Run the trainer as ``ns-train`` does and return it."""
    config.get_base_dir().mkdir(parents=True, exist_ok=True)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    return trainer


def last_checkpoint(config: TrainerConfig) -> Path:
    """The newest checkpoint of a run."""
    return max(config.get_checkpoint_dir().glob("*.ckpt"))


def data_manager(capture: Path, dataparser=None, test_mode: str = "test") -> L2ODataManager:
    """What a method reads of a capture, images aside; every 8th view held out."""
    if dataparser is None:
        dataparser = NerfstudioDataParserConfig(load_3D_points=True, eval_mode="interval", eval_interval=8)
    return L2ODataManagerConfig(data=capture, dataparser=dataparser).setup(device="cpu", test_mode=test_mode)


def colmap_parser() -> ColmapDataParserConfig:
    """For models of :func:`write_colmap_model`."""
    return ColmapDataParserConfig(colmap_path=Path("sparse/0"), downscale_factor=1)


def shift_capture(folder: Path, offset) -> None:
    """Move poses and points of a tiny capture, in float64."""

    def move(meta):
        for frame in meta["frames"]:
            for row, value in zip(frame["transform_matrix"], offset, strict=False):
                row[3] += value

    edit_transforms(folder, move)
    header, rows = read_points(folder)
    header = [line.replace("property float", "property double") for line in header]
    lines = [
        " ".join([*(repr(float(x) + value) for x, value in zip(row, offset, strict=False)), *row[3:]]) for row in rows
    ]
    (folder / "points.ply").write_text("\n".join([*header, *lines]) + "\n")


def read_points(folder: Path) -> tuple[list[str], list[list[str]]]:
    """Header lines and rows of a tiny capture's PLY."""
    lines = (folder / "points.ply").read_text().splitlines()
    end = lines.index("end_header") + 1
    return lines[:end], [line.split() for line in lines[end:]]


def write_colmap_model(folder: Path) -> Path:
    """The poses and points of a tiny capture as a COLMAP model in text form."""
    meta = json.loads((folder / "transforms.json").read_text())
    model = folder / "sparse/0"
    model.mkdir(parents=True, exist_ok=True)
    (model / "cameras.txt").write_text(
        f"1 PINHOLE {meta['w']} {meta['h']} {meta['fl_x']} {meta['fl_y']} {meta['cx']} {meta['cy']}\n"
    )
    images = []
    for number, frame in enumerate(meta["frames"], start=1):
        pose = np.array(frame["transform_matrix"])
        rotation = (pose[:3, :3] * [1, -1, -1]).T
        x, y, z, w = map(float, Rotation.from_matrix(rotation).as_quat())
        shift = map(float, -rotation @ pose[:3, 3])
        numbers = " ".join(map(repr, [w, x, y, z, *shift]))
        images.append(f"{number} {numbers} 1 {Path(frame['file_path']).name}\n1.0 1.0 -1\n")
    (model / "images.txt").write_text("".join(images))
    _, rows = read_points(folder)
    (model / "points3D.txt").write_text(
        "".join(f"{number} {' '.join(row)} 0.5 1 0\n" for number, row in enumerate(rows, start=1))
    )
    return folder
