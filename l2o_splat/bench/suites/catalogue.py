"""Every suite by name."""

from __future__ import annotations

from collections.abc import Iterable

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.published import published_for
from l2o_splat.bench.suites.suite import (
    Cropped,
    EveryEighth,
    Indexed,
    OwnSplit,
    Reduced,
    Split,
    SpreadContext,
    Suite,
    Window,
)

SCENES: dict[str, tuple[str, ...]] = {
    "mipnerf360": ("bicycle", "bonsai", "counter", "flowers", "garden", "kitchen", "room", "stump", "treehill"),
    "llff": ("fern", "flower", "fortress", "horns", "leaves", "orchids", "room", "trex"),
    "dtu": tuple(f"scan{n}" for n in (24, 37, 40, 55, 63, 65, 69, 83, 97, 105, 106, 110, 114, 118, 122)),
}
"""Scenes of the data sets that papers take whole; of the others they take those of an index or of a benchmark."""

NUM_SCENES = {"dl3dv": 140, "re10k": 6474, "re10k-8v": 72, "acid": 1595}
"""Scenes of a paper where it is a number, by suite or else by data set."""

HIGH, LOW = Cropped(512, 960), Cropped(256, 448)
VIEWS_AT_HIGH = (2, 4, 6, 8, 10, 12, 14, 16)
OTHER_SIZES = (Cropped(448, 832), Cropped(416, 768), Cropped(320, 640))

STARTS_OF_CHUNKS = (
    "With points beside the chunks our rules start from the initial model of ReSplat weights, without them from random "
    "points."
)


def _dl3dv(name: str, size: Cropped, split: Split, remark: str = STARTS_OF_CHUNKS) -> Suite:
    return Suite(name, "dl3dv", size, split, published_for(name), remark=remark)


_ALL = (
    Suite("mipnerf360", "mipnerf360", Reduced(4), EveryEighth(), published_for("mipnerf360")),
    Suite("llff", "llff", Reduced(4), EveryEighth(), published_for("llff"), normalised=True),
    Suite(
        "dtu",
        "dtu",
        Reduced(1),
        EveryEighth(),
        published_for("dtu"),
        normalised=True,
        remark="The paper's table names 1162 x 1554 pixels, the full size of the undistorted photographs that are "
        "distributed with 2DGS, and its scripts a factor of 2; the size of the table is taken.",
    ),
    Suite("scannetpp", "scannetpp", Reduced(2), OwnSplit(), remark="No numbers of the three papers are known for it."),
    Suite(
        "scannetpp-4v",
        "scannetpp",
        Cropped(256, 256),
        Window(40, 4, 8),
        remark="DIFF3R (arXiv 2604.01030) reports on ScanNet++ with 4 views; its numbers, views and size were not "
        "published in a table that could be read, so the views are chosen as ReSplat chooses them.",
    ),
    _dl3dv(
        "dl3dv",
        LOW,
        EveryEighth(),
        "Our rules start from the points beside the chunks, as the paper's, or from random ones where there are none.",
    ),
    _dl3dv("dl3dv-8v", LOW, Window(40, 8, 8)),
    _dl3dv("dl3dv-16v", LOW, Window(80, 16, 16)),
    _dl3dv("dl3dv-32v", LOW, Window(160, 32, 24)),
    *(_dl3dv(f"dl3dv-{views}v-512x960", HIGH, Window(60, views, 8)) for views in VIEWS_AT_HIGH),
    *(_dl3dv(f"dl3dv-8v-{size.height}x{size.width}", size, Window(60, 8, 8)) for size in OTHER_SIZES),
    _dl3dv(
        "dl3dv-16v-540x960",
        Cropped(540, 960),
        SpreadContext(16),
        f"{STARTS_OF_CHUNKS} The split of Long-LRM follows ReSplat's rule; --view-index takes its file.",
    ),
    Suite("re10k", "re10k", Cropped(256, 256), Indexed(2), published_for("re10k"), remark=STARTS_OF_CHUNKS),
    Suite(
        "re10k-8v",
        "re10k",
        HIGH,
        Window(200, 8, 8),
        published_for("re10k-8v"),
        remark=f"{STARTS_OF_CHUNKS} The paper's 72 scenes and number of targets are not known.",
    ),
    Suite("acid", "acid", Cropped(256, 256), Indexed(2), published_for("acid"), remark=STARTS_OF_CHUNKS),
)

SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}


def find_suites(names: Iterable[str]) -> list[Suite]:
    """Suites by name, each once.

    Raises:
        BenchError: If there is no such suite.
    """
    names = list(dict.fromkeys(names))
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        raise BenchError(f"There is no suite {unknown[0]}; there are {', '.join(SUITES)}, and rules alone.")
    return [SUITES[name] for name in names]


def suite_of(scene: str) -> Suite | None:
    """The suite of a run's scene, whose name is ``SUITE/SCENE``; None of an ordinary capture."""
    name, slash, _ = scene.partition("/")
    return SUITES.get(name) if slash else None


def scenes_of_paper(suite: Suite) -> int | None:
    """How many scenes the paper's mean is over; None if that is not known."""
    known = NUM_SCENES.get(suite.name, NUM_SCENES.get(suite.dataset))
    return len(SCENES[suite.dataset]) if suite.dataset in SCENES else known
