"""Scenes of a suite as captures that nerfstudio reads: the suite's views at its size, with its split.

Each is written once, below the folder of the report, and appears complete or not at all. Photographs that need no
change stay where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.layouts import Readers
from l2o_splat.bench.suites.normalisation import normalised
from l2o_splat.bench.suites.posed import PosedScene
from l2o_splat.bench.suites.sizes import Fitting, fitting
from l2o_splat.bench.suites.suite import Suite
from l2o_splat.bench.suites.views import check_indexed, choose_views
from l2o_splat.scenes.capture import NamedSplit, Points, new_directory, write_transforms
from l2o_splat.scenes.capture_names import CaptureSource
from l2o_splat.scenes.chunks.view_index import ViewIndex
from l2o_splat.views import PinholeCameras

CAPTURES_NAME = "suites"
"""Folder of the captures, in that of the report."""
LAYOUT = 1
"""Goes up when the same scene is written in another way."""
DATAPARSER = (
    "nerfstudio-data",
    *("--orientation-method", "none", "--center-method", "none", "--no-auto-scale-poses"),
)
"""World frame and units stay those of the data set."""


def write_captures(
    suite: Suite,
    folder: Path,
    scenes: Readers,
    index: Mapping[str, ViewIndex | None] | None,
    out: Path,
    on_scene: Callable[[str], None] = lambda name: None,
) -> list[CaptureSource]:
    """Write the scenes of a suite that are not there yet.

    Args:
        suite: Says which views, and at which size.
        folder: Of the data set.
        scenes: What reads each scene.
        index: Views of each scene; None chooses them by the rule of the suite. Scenes that it leaves out are left out.
        out: Folder of the report.
        on_scene: Called with the name of each scene that is written.

    Returns:
        The captures by name ``SUITE/SCENE``, in the order of the scenes.

    Raises:
        BenchError: If a scene cannot be read, or has too few views.
    """
    if index is not None:
        scenes = {name: read for name, read in scenes.items() if index.get(name) is not None}
        if not scenes:
            raise BenchError(f"The index file of {suite.name} names none of the scenes in {folder}; give its own.")
    captures = []
    for name, read in scenes.items():
        views = None if index is None else index[name]
        target = out / CAPTURES_NAME / f"{suite.name}-{_key(suite, folder, views)}" / name
        if not (target / "transforms.json").is_file():
            on_scene(f"{suite.name}/{name}")
            write_scene(suite, read(), views, target, f"{suite.name}/{name}")
        has_points = (target / "sparse_pc.ply").is_file()
        words = (*DATAPARSER, *(("--load-3D-points",) if has_points else ()))
        captures.append(CaptureSource(f"{suite.name}/{name}", words, str(target.resolve()), views="own"))
    return captures


def _key(suite: Suite, folder: Path, views: ViewIndex | None) -> str:
    """Differs whenever a scene would be written otherwise."""
    parts = (LAYOUT, suite.size, suite.split, suite.normalised, folder.resolve(), views)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:10]


def write_scene(suite: Suite, scene: PosedScene, views: ViewIndex | None, target: Path, where: str) -> None:
    """Write one scene; arguments and errors as :func:`write_captures`."""
    if views is None:
        context, targets = choose_views(suite.split, scene, where)
    else:
        context, targets = check_indexed([*views.context], [*views.target], len(scene.names), suite.split, where)
    scene = normalised(scene) if suite.normalised else scene
    chosen = sorted({*context, *targets})
    sizes = [scene.sizes[view] for view in chosen]
    fittings = [fitting(suite.size, size, scene.reduced_by, where) for size in sizes]
    Ks = [fit.intrinsics(scene.Ks[view], size) for fit, view, size in zip(fittings, chosen, sizes, strict=True)]
    cameras = PinholeCameras(torch.from_numpy(scene.viewmats[chosen]), torch.from_numpy(np.stack(Ks)), *sizes[0])
    points = None
    if scene.xyz is not None:
        points = Points(torch.from_numpy(scene.xyz).float(), torch.from_numpy(scene.rgb).float() / 255)
    with new_directory(target) as partial:
        files = {view: _photograph(scene, view, fit, partial) for view, fit in zip(chosen, fittings, strict=True)}
        write_transforms(
            partial,
            [files[view] for view in chosen],
            cameras,
            points,
            sizes=[fit.size for fit in fittings],
            distortions=[scene.distortions[view] for view in chosen] if any(scene.distortions) else None,
            split=NamedSplit([files[view] for view in context], [files[view] for view in targets]),
        )


def _photograph(scene: PosedScene, view: int, fit: Fitting, folder: Path) -> str:
    """The path of a photograph as a transforms.json names it; it is written if its size changes."""
    files = scene.photographs.files
    if files is not None and fit.keeps(scene.sizes[view]):
        return str(files[view].resolve())
    (folder / "images").mkdir(exist_ok=True)
    name = f"images/{Path(scene.names[view]).stem}.png"
    (pixels,) = scene.photographs.read([view])
    Image.fromarray(fit.photograph(pixels)).save(folder / name, compress_level=3)
    return name
