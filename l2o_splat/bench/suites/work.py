"""What ``l2o bench`` is to do for the suites and the study that its options name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.methods import Method, find_method
from l2o_splat.bench.suites.catalogue import SCENES, find_suites
from l2o_splat.bench.suites.studies import STUDIES, WEIGHTS_OPTION, Study, StudyName, Variant, study_variants
from l2o_splat.bench.suites.suite import Cropped, DatasetName, Suite
from l2o_splat.scenes.capture_names import CaptureSource

if TYPE_CHECKING:
    from l2o_splat.bench.suites.layouts import Readers
    from l2o_splat.scenes.chunks.view_index import ViewIndex

CHUNKS = ("dl3dv", "re10k", "acid")
"""Data sets that come as chunks, without points."""
FROM_POINTS = ("l2o-adam", "l2o-adam-tuned", "learn2splat")
"""Our methods that start from points by default."""
FROM_NETWORK = ("resplat", "diff3r")
MOST_AT_ONCE, AT_ONCE = 16, 8
"""Context views that an initial model of 8 views sees together at most, and how many of more than that."""
SUITE_STEPS = 2000
"""Training steps of a suite unless they are typed: those of the papers' scripts."""
START = "--pipeline.initialization"


@dataclass(frozen=True)
class PaperOptions:
    """Options of ``l2o bench`` that concern the papers' evaluations."""

    suites: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    view_indices: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    study: StudyName | None = None
    study_weights: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """Whether suites or a study are asked for.

        Raises:
            BenchError: If options have no effect without them.
        """
        if self.suites or self.study is not None:
            return True
        idle = {
            "--dataset": self.datasets,
            "--view-index": self.view_indices,
            "--scenes": self.scenes,
            "--study-weights": self.study_weights,
        }
        set_ones = [option for option, values in idle.items() if values]
        if set_ones:
            raise BenchError(f"{set_ones[0]} concerns suites and studies, and none is named; add --suite or --study.")
        return False


@dataclass(frozen=True)
class SuiteWork:
    """One suite on the user's folder."""

    suite: Suite
    folder: Path
    readers: Readers
    """What reads each scene, by name."""
    index: Mapping[str, ViewIndex | None] | None
    methods: tuple[Method, ...]
    """The sweep's methods, with what they need for this suite."""

    def captures(self, out: Path, on_scene: Callable[[str], None]) -> list[CaptureSource]:
        """Write the captures that are not there yet, see :func:`write_captures`."""
        from l2o_splat.bench.suites.captures import write_captures

        return write_captures(self.suite, self.folder, self.readers, self.index, out, on_scene)


def find_work(
    options: PaperOptions, methods: Sequence[Method], has_captures: bool, say: Callable[[str], None]
) -> list[SuiteWork]:
    """Find the scenes of every suite; nothing is read or written so far.

    Args:
        options: What the user asks for.
        methods: Of the sweep.
        has_captures: Whether captures are named beside the suites, on which a study runs too.
        say: Tells what is left out and why.

    Raises:
        BenchError: If a folder, a suite or an index file is missing.
    """
    folders = {name: Path(text).expanduser() for name, text in pairs(options.datasets, "--dataset").items()}
    unknown = [name for name in folders if name not in get_args(DatasetName)]
    if unknown:
        raise BenchError(f"--dataset {unknown[0]} is unknown; there are {', '.join(get_args(DatasetName))}.")
    suites = find_suites(options.suites or STUDIES[options.study].suites)
    without = [suite for suite in suites if suite.dataset not in folders]
    if without and options.suites:
        suite = without[0]
        raise BenchError(
            f"The suite {suite.name} needs the data set {suite.dataset}; name its folder with "
            f"--dataset {suite.dataset}=FOLDER."
        )
    if without:
        needed = dict.fromkeys(suite.dataset for suite in without)
        options_needed = ", ".join(f"--dataset {name}=FOLDER" for name in needed)
        if len(without) == len(suites) and not has_captures:
            raise BenchError(f"The study {options.study} runs on data sets of the papers; name some: {options_needed}.")
        say(
            f"Left out for want of their data set: {', '.join(suite.name for suite in without)}; give {options_needed}."
        )
    suites = [suite for suite in suites if suite not in without]
    indices = pairs(options.view_indices, "--view-index")
    idle = [name for name in indices if name not in {suite.name for suite in suites}]
    if idle:
        raise BenchError(f"--view-index {idle[0]} names no suite of this sweep ({', '.join(s.name for s in suites)}).")
    return [_work(suite, folders[suite.dataset], indices.get(suite.name), options, methods) for suite in suites]


def _work(suite: Suite, folder: Path, index: str | None, options: PaperOptions, methods: Sequence[Method]) -> SuiteWork:
    from l2o_splat.bench.suites.chunk_scenes import has_points
    from l2o_splat.bench.suites.layouts import find_scenes
    from l2o_splat.bench.suites.views import needs_index
    from l2o_splat.scenes.chunks.errors import ChunkError
    from l2o_splat.scenes.chunks.view_index import read_view_index

    if index is None and needs_index(suite.split):
        raise BenchError(
            f"The views of {suite.name} come from a file of the paper (pixelSplat's evaluation index); name it with "
            f"--view-index {suite.name}=FILE."
        )
    readers = find_scenes(suite, folder)
    wanted = options.scenes or [name for name in SCENES.get(suite.dataset, ()) if name in readers] or list(readers)
    missing = [name for name in wanted if name not in readers]
    if missing:
        raise BenchError(f"--scenes {missing[0]}: {folder} has {_few(list(readers))}.")
    try:
        views = None if index is None else read_view_index(Path(index).expanduser())
    except ChunkError as error:
        raise BenchError(f"--view-index {suite.name}: {error}") from error
    points = suite.dataset in CHUNKS and has_points(folder, wanted)
    return SuiteWork(
        suite,
        folder,
        {name: readers[name] for name in wanted},
        views,
        tuple(started(suite, method, points) for method in methods),
    )


def started(suite: Suite, method: Method, has_points: bool) -> Method:
    """A method with the start that a suite gives it; options that the user typed go before.

    Sparse views of chunks start from the initial model of ReSplat weights, as in Learn2Splat. It sees all context
    views, at the size of the suite.

    Args:
        suite: Says which views there are.
        method: As the user named it.
        has_points: Whether there are points beside the chunks, from which default weights learn the range of depths.
    """
    typed = " ".join(method.options).replace("=", " ")
    options, of_network = [], method.name in FROM_NETWORK or f"{START}.source resplat" in typed
    sparse_chunks = suite.dataset in CHUNKS and suite.context is not None
    if method.name in FROM_POINTS and sparse_chunks and has_points and f"{START}.source" not in typed:
        options, of_network = [f"{START}.source", "resplat"], True
    if not of_network:
        return method
    if suite.context is not None:
        options += [f"{START}.context.num-views", str(suite.context)]
        if suite.context > MOST_AT_ONCE:
            options += [f"{START}.context.views-at-once", str(AT_ONCE)]
    if isinstance(suite.size, Cropped):
        options += [f"{START}.context.longer-side", str(max(suite.size.height, suite.size.width))]
    return replace(method, options=(*options, *method.options))


def study_methods(
    name: StudyName, weights: Mapping[str, str], out: Path, say: Callable[[str], None]
) -> tuple[Method, ...]:
    """The methods of a study, with the weights that the user names.

    Args:
        name: Of the study.
        weights: References of weights by their name in the study.
        out: Folder of the report, in which weights without a part are written.
        say: Tells what is left out and why.

    Raises:
        BenchError: If weights are unknown to the study, or nothing is left.
        WeightsError: If weights cannot be read.
    """
    study: Study = STUDIES[name]
    variants, missing = study_variants(study, weights)
    if missing:
        say(missing)
    return tuple(_method(variant, weights, out) for variant in variants)


def _method(variant: Variant, weights: Mapping[str, str], out: Path) -> Method:
    reference = None if variant.weights is None else weights.get(variant.weights)
    if reference is None and variant.without is not None:
        from l2o_splat.bench.suites.ablated_weights import write_without

        reference = str(write_without(variant.without, weights.get("full"), out).resolve())
    method = find_method(variant.method)
    options = method.options if reference is None else (*method.options, WEIGHTS_OPTION, reference)
    return replace(method, label=variant.label, options=options)


def pairs(entries: Sequence[str], option: str) -> dict[str, str]:
    """Entries ``NAME=VALUE`` of an option.

    Raises:
        BenchError: If one has another form, or a name comes twice.
    """
    found: dict[str, str] = {}
    for text in entries:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise BenchError(f"{option} {text!r} is not NAME=VALUE; give a name, an equals sign and what it names.")
        if name in found:
            raise BenchError(f"{option} names {name} twice; give it once.")
        found[name] = value
    return found


def _few(names: Sequence[str], most: int = 12) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
