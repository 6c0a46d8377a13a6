"""Where the scenes of a data set lie in a folder, and how one is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.posed import Photographs, PosedScene, size_of
from l2o_splat.bench.suites.suite import DatasetName, Suite
from l2o_splat.scenes.colmap_model import ColmapModelError, holds_model, read_colmap_model

MODEL_FOLDERS = ("sparse/0", "colmap/sparse/0", "sparse")
PHOTOGRAPHS = {".jpg", ".jpeg", ".png"}

HOW_IT_LIES = {
    "mipnerf360": "SCENE/images, SCENE/images_4 and SCENE/sparse/0, as 360_v2.zip unpacks",
    "llff": "SCENE/images, SCENE/images_4, SCENE/sparse/0 or SCENE/poses_bounds.npy, as nerf_llff_data unpacks",
    "dtu": "scanNN/images and scanNN/sparse/0 (as 2DGS distributes it) or scanNN/image and scanNN/cameras_sphere.npz "
    "(as NeuS does)",
    "scannetpp": "SCENE/dslr/nerfstudio/transforms_undistorted.json, SCENE/dslr/resized_undistorted_images and "
    "SCENE/dslr/colmap",
    "dl3dv": "chunks NNNNNN.torch, in the folder or in its subfolder test",
    "re10k": "chunks NNNNNN.torch, in the folder or in its subfolder test",
    "acid": "chunks NNNNNN.torch, in the folder or in its subfolder test",
}
"""What a folder of each data set holds, for messages."""

Readers = dict[str, Callable[[], PosedScene]]
"""What reads each scene, by name."""


def find_scenes(suite: Suite, folder: Path) -> Readers:
    """The scenes in a folder of a data set; none is read so far.

    Raises:
        BenchError: If the folder holds none.
    """
    if not folder.is_dir():
        raise BenchError(f"--dataset {suite.dataset}={folder} is no folder; give the one that holds {_needed(suite)}.")
    readers = _FINDERS[suite.dataset](suite, folder)
    if not readers:
        raise BenchError(f"{folder} holds no scene of {suite.dataset}; it must hold {_needed(suite)}.")
    return readers


def _needed(suite: Suite) -> str:
    return HOW_IT_LIES[suite.dataset]


def _scene_folders(folder: Path, holds: Callable[[Path], bool]) -> dict[str, Path]:
    """Subfolders that hold a scene; the folder itself if it is one."""
    if holds(folder):
        return {folder.resolve().name: folder}
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and holds(path)}


def _colmap_scenes(suite: Suite, folder: Path) -> Readers:
    found = _scene_folders(folder, lambda path: _model_folder(path) is not None)
    return {name: lambda path=path: read_colmap_scene(path, suite) for name, path in found.items()}


def _llff_scenes(suite: Suite, folder: Path) -> Readers:
    def holds(path: Path) -> bool:
        return _model_folder(path) is not None or (path / "poses_bounds.npy").is_file()

    return {name: lambda path=path: _read_llff(path, suite) for name, path in _scene_folders(folder, holds).items()}


def _dtu_scenes(suite: Suite, folder: Path) -> Readers:
    def holds(path: Path) -> bool:
        return _model_folder(path) is not None or (path / "cameras_sphere.npz").is_file()

    return {name: lambda path=path: _read_dtu(path, suite) for name, path in _scene_folders(folder, holds).items()}


def _scannetpp_scenes(suite: Suite, folder: Path) -> Readers:
    folder = folder / "data" if (folder / "data").is_dir() else folder
    found = _scene_folders(folder, lambda path: (path / "dslr/nerfstudio/transforms_undistorted.json").is_file())
    return {name: lambda path=path: _read_scannetpp(path) for name, path in found.items()}


def _chunk_scenes(suite: Suite, folder: Path) -> Readers:
    from l2o_splat.bench.suites.chunk_scenes import find_chunk_scenes

    return find_chunk_scenes(folder)


_FINDERS: dict[DatasetName, Callable[[Suite, Path], Readers]] = {
    "mipnerf360": _colmap_scenes,
    "llff": _llff_scenes,
    "dtu": _dtu_scenes,
    "scannetpp": _scannetpp_scenes,
    "dl3dv": _chunk_scenes,
    "re10k": _chunk_scenes,
    "acid": _chunk_scenes,
}


def _model_folder(path: Path) -> Path | None:
    return next((path / name for name in MODEL_FOLDERS if holds_model(path / name)), None)


def _listed(folder: Path) -> list[Path]:
    """Photographs in a folder, by name; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOGRAPHS)


def _smaller_copies(path: Path, factor: int, count: int) -> list[Path] | None:
    """Photographs of ``images_FACTOR``, if there are as many as there are cameras."""
    files = _listed(path / f"images_{factor}") if factor > 1 else []
    return files if len(files) == count else None


def read_colmap_scene(path: Path, suite: Suite) -> PosedScene:
    """Read a scene with a COLMAP model; photographs come from smaller copies if there are some of the suite's size.

    Raises:
        BenchError: If photographs are missing or the model is damaged.
    """
    try:
        model = read_colmap_model(_model_folder(path))
    except ColmapModelError as error:
        raise BenchError(str(error)) from error
    factor, count = getattr(suite.size, "factor", 1), len(model.names)
    files = [path / "images" / name for name in model.names]
    # Copies are often named anew (LLFF), so they are taken in order.
    copies = _smaller_copies(path, factor, count)
    fisheye = sorted({camera.model for camera in model.cameras if camera.model == "OPENCV_FISHEYE"})
    if fisheye:
        raise BenchError(f"{path} has cameras of the model {fisheye[0]}; undistort them with colmap image_undistorter.")
    scene = PosedScene(
        names=model.names,
        viewmats=model.viewmats,
        Ks=np.stack([camera.intrinsics for camera in model.cameras]),
        sizes=[(camera.width, camera.height) for camera in model.cameras],
        photographs=Photographs.of_files(copies or files),
        reduced_by=factor if copies else 1,
        distortions=[camera.distortion for camera in model.cameras],
        xyz=model.xyz if len(model.xyz) else None,
        rgb=model.rgb if len(model.xyz) else None,
    )
    return _as_stored(scene)


def _as_stored(scene: PosedScene) -> PosedScene:
    """The scene with cameras for the sizes that its files have.

    Raises:
        BenchError: If a file is missing or no photograph.
    """
    files = scene.photographs.files
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise BenchError(
            f"{missing[0]} does not exist ({len(missing)} of {len(files)} photographs of the scene are missing); "
            "unpack the photographs beside the cameras."
        )
    try:
        sizes = [size_of(file) for file in files]
    except (OSError, UnidentifiedImageError) as error:
        raise BenchError(f"A photograph cannot be read ({error}); unpack the data set again.") from error
    Ks = scene.Ks.copy()
    for K, old, new in zip(Ks, scene.sizes, sizes, strict=True):
        K[0] *= new[0] / old[0]
        K[1] *= new[1] / old[1]
    return replace(scene, Ks=Ks, sizes=sizes)


def _read_llff(path: Path, suite: Suite) -> PosedScene:
    if _model_folder(path) is not None:
        return read_colmap_scene(path, suite)
    try:
        rows = np.load(path / "poses_bounds.npy", allow_pickle=False)
        poses = rows[:, :15].reshape(-1, 3, 5).astype(np.float64)
    except (OSError, ValueError, IndexError) as error:
        raise BenchError(
            f"{path / 'poses_bounds.npy'} cannot be read ({error}); rows of 17 numbers are needed."
        ) from error
    factor = getattr(suite.size, "factor", 1)
    copies = _smaller_copies(path, factor, len(poses))
    files = copies or _listed(path / "images")
    if len(files) != len(poses):
        raise BenchError(
            f"{path} has {len(poses)} poses in poses_bounds.npy and {len(files)} photographs in images; as many are "
            "needed, in the order of their names."
        )
    # Columns of a pose point down, right and back.
    poses_cv = np.tile(np.eye(4), (len(poses), 1, 1))
    down, right, back = poses[:, :, 0], poses[:, :, 1], poses[:, :, 2]
    poses_cv[:, :3] = np.stack([right, down, -back, poses[:, :, 3]], axis=2)
    height, width, focal = poses[:, :, 4].T
    Ks = np.tile(np.eye(3), (len(poses), 1, 1))
    Ks[:, 0, 0] = Ks[:, 1, 1] = focal
    Ks[:, 0, 2], Ks[:, 1, 2] = width / 2, height / 2
    sizes = [(int(w), int(h)) for w, h in zip(width, height, strict=True)]
    return _as_stored(
        PosedScene(
            names=[file.name for file in files],
            viewmats=np.linalg.inv(poses_cv),
            Ks=Ks,
            sizes=sizes,
            photographs=Photographs.of_files(files),
            reduced_by=factor if copies else 1,
        )
    )


def _read_dtu(path: Path, suite: Suite) -> PosedScene:
    if _model_folder(path) is not None:
        return read_colmap_scene(path, suite)
    from scipy.linalg import rq

    files = _listed(path / "image")
    viewmats, Ks = [], []
    try:
        with np.load(path / "cameras_sphere.npz", allow_pickle=False) as matrices:
            projections = [matrices[f"world_mat_{i}"][:3, :4].astype(np.float64) for i in range(len(files))]
    except (OSError, KeyError, ValueError) as error:
        raise BenchError(
            f"{path / 'cameras_sphere.npz'} does not give a world_mat for each of the {len(files)} photographs in "
            f"{path / 'image'} ({error})."
        ) from error
    if not files:
        raise BenchError(f"{path / 'image'} holds no photographs of cameras_sphere.npz.")
    for projection in projections:
        projection = projection * np.sign(np.linalg.det(projection[:, :3]))
        K, rotation = rq(projection[:, :3])
        signs = np.diag(np.sign(np.diag(K)))  # A decomposition is known up to these.
        K, rotation = K @ signs, signs @ rotation
        viewmat = np.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, np.linalg.solve(K, projection[:, 3])
        viewmats.append(viewmat)
        Ks.append(K / K[2, 2])
    sizes = [size_of(file) for file in files]
    return PosedScene(
        [file.name for file in files], np.stack(viewmats), np.stack(Ks), sizes, Photographs.of_files(files)
    )


def _read_scannetpp(path: Path) -> PosedScene:
    """Lenses and the split from ``transforms_undistorted.json``; poses and points from COLMAP, whose world has no turn.

    Frames that the data set calls bad are left out.
    """
    transforms = path / "dslr/nerfstudio/transforms_undistorted.json"
    try:
        meta = json.loads(transforms.read_text(encoding="utf-8"))
        kept = {
            split: {frame["file_path"] for frame in meta[split] if not frame.get("is_bad")}
            for split in ("frames", "test_frames")
        }
        lens = [float(meta[name]) for name in ("fl_x", "fl_y", "cx", "cy")]
        size = int(meta["w"]), int(meta["h"])
        model = read_colmap_model(path / "dslr/colmap")
    except (OSError, ValueError, KeyError, TypeError) as error:
        detail = str(error) if isinstance(error, ColmapModelError) else f"{transforms}: {type(error).__name__} {error}"
        raise BenchError(
            f"{path} cannot be read as a scene of ScanNet++ ({detail}); {HOW_IT_LIES['scannetpp']} are needed."
        ) from error
    names = kept["frames"] | kept["test_frames"]
    rows = [row for row, name in enumerate(model.names) if Path(name).name in names]
    lost = sorted(names - {Path(model.names[row]).name for row in rows})
    if lost:
        raise BenchError(f"{path / 'dslr/colmap'} has no pose of {lost[0]}, which {transforms.name} lists.")
    fl_x, fl_y, cx, cy = lens
    found = [Path(model.names[row]).name for row in rows]
    return _as_stored(
        PosedScene(
            names=found,
            viewmats=model.viewmats[rows],
            Ks=np.tile([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1.0]], (len(rows), 1, 1)),
            sizes=[size] * len(rows),
            photographs=Photographs.of_files([path / "dslr/resized_undistorted_images" / name for name in found]),
            xyz=model.xyz if len(model.xyz) else None,
            rgb=model.rgb if len(model.xyz) else None,
            test_names=frozenset(kept["test_frames"]),
        )
    )
