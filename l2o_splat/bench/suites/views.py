"""Which views of a scene are context and which are targets, as each paper chooses them."""

from __future__ import annotations

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.suites.posed import PosedScene
from l2o_splat.bench.suites.suite import EveryEighth, Indexed, OwnSplit, Split, SpreadContext, Window
from l2o_splat.scenes.chunks.errors import TooFewFramesError
from l2o_splat.scenes.chunks.view_samplers import spread_evaluation_views
from l2o_splat.scenes.split import HOLD_OUT_EVERY, SplitError, split_views
from l2o_splat.view_sampling import spread_views


def choose_views(split: Split, scene: PosedScene, where: str) -> tuple[list[int], list[int]]:
    """Indices of context views and of targets.

    Args:
        split: Of the suite.
        scene: All photographs of the scene.
        where: Name of the scene, for messages.

    Raises:
        BenchError: If the scene has too few views, or the split needs an index file.
    """
    centres, count = scene.centres, len(scene.names)
    if isinstance(split, EveryEighth):
        try:
            return split_views(centres, "all")
        except SplitError as error:
            raise BenchError(f"{where}: {error}") from error
    if isinstance(split, OwnSplit):
        targets = [view for view, name in enumerate(scene.names) if name in scene.test_names]
        context = [view for view, name in enumerate(scene.names) if name not in scene.test_names]
        return _checked(context, targets, where, "training frames and test frames that are not bad")
    if isinstance(split, Window):
        try:
            views = spread_evaluation_views(centres[: split.frames], split.context, split.targets)
        except TooFewFramesError as error:
            raise BenchError(f"{where}: {error}") from error
        return [*views.context], [*views.target]
    if isinstance(split, SpreadContext):
        targets = list(range(HOLD_OUT_EVERY - 1, count, HOLD_OUT_EVERY))
        rest = [view for view in range(count) if view not in targets]
        if len(rest) < split.context:
            raise BenchError(f"{where}: {len(rest)} views are no targets; {split.context} context views are needed.")
        context = sorted(rest[view] for view in spread_views(centres[rest], split.context))
        return _checked(context, targets, where, f"{HOLD_OUT_EVERY} views")
    raise BenchError(f"{where}: the views of this suite come from a file; name it with --view-index SUITE=FILE.")


def check_indexed(
    context: list[int], targets: list[int], count: int, split: Split, where: str
) -> tuple[list[int], list[int]]:
    """Views that an index file names, if the scene has them.

    Raises:
        BenchError: If a view does not exist, or another number of context views is named than the suite has.
    """
    beyond = [view for view in (*context, *targets) if not 0 <= view < count]
    if beyond:
        raise BenchError(
            f"{where}: the index file names view {beyond[0]}, and the scene has {count}; it is of another version of "
            "the data set."
        )
    wanted = getattr(split, "context", None)
    if wanted is not None and len(context) != wanted:
        raise BenchError(
            f"{where}: the index file names {len(context)} context views, and the suite has {wanted}; give the file of "
            "this suite."
        )
    return _checked(sorted(context), sorted(targets), where, "context views and targets")


def needs_index(split: Split) -> bool:
    """Whether views come from a file alone."""
    return isinstance(split, Indexed)


def _checked(context: list[int], targets: list[int], where: str, needed: str) -> tuple[list[int], list[int]]:
    if len(context) < 2 or not targets:
        raise BenchError(
            f"{where}: {len(context)} context views and {len(targets)} targets are left; at least 2 and 1 are needed, "
            f"from {needed}."
        )
    return context, targets
