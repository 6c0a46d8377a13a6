"""Structure from motion on prepared photographs: features, matches and the poses that keep most photographs.

Everything comes from ``pycolmap`` (COLMAP, Schoenberger and Frahm, CVPR 2016) on the CPU; features and matches can come
from a network instead (:mod:`l2o_splat.scenes.learned_features`). Incremental mapping comes first. Where it leaves out
more than one photograph in twenty, its models are merged by the photographs they share, and global mapping (GLOMAP, Pan
et al., ECCV 2024) is tried on the same matches. Photographs that still lack a pose are then added to the largest model,
with fewer matches than COLMAP asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import closing
from itertools import combinations, groupby
from pathlib import Path
from typing import Any, Literal

from l2o_splat.scenes.merged_models import merged, num_posed, without_loose_poses
from l2o_splat.scenes.photo_copies import Copies
from l2o_splat.scenes.photo_folders import PhotosError
from l2o_splat.scenes.posing_phases import Progress, run_watched

Matching = Literal["auto", "exhaustive", "sequential"]
Matches = Literal["sift", "xfeat"]

ENOUGH = 0.95
"""Share of photographs with a pose from which on nothing else is tried."""
_SEED = 0
_NEIGHBOURS = 10
"""Photographs to either side that sequential matching compares."""
_LANDMARKS = 60
"""Photographs, evenly spread, that sequential matching compares all with each other to close loops."""
_FEW_FRAMES = 40
"""Up to here a video is matched exhaustively."""
_MANY_PHOTOGRAPHS = 200
"""From here on exhaustive matching gets a remark."""
_REST_INLIERS, _REST_INLIER_RATIO = 15, 0.15
"""Matches with the cloud that pose a photograph which COLMAP's own 30 and 0.25 left out."""
_BLOCK = 10
"""Photographs of a block whose pairs are matched together; Ctrl-C waits for the end of one."""


class StructureFromMotion:
    """COLMAP's work on one folder of copies."""

    def __init__(
        self,
        pycolmap,
        folder: Path,
        copies: Copies,
        *,
        num_threads: int,
        progress: Progress,
        report: Callable[[str], None],
        matches: Matches = "sift",
    ) -> None:
        """Prepare the work.

        Args:
            pycolmap: The module.
            folder: Holds ``images/`` and, if the copies are masked, ``masks/``; the database and models go there.
            copies: What lies in ``images/``.
            num_threads: Threads of COLMAP; -1 is one for each core.
            progress: Called for the phases from ``features`` to ``rest``.
            report: Receives remarks and warnings, one a line.
            matches: What finds features and matches; those of SIFT are COLMAP's own.
        """
        self._pycolmap, self._copies, self._matches = pycolmap, copies, matches
        self._images, self._masks = folder / "images", folder / "masks" if copies.masked else None
        self._work = folder / "xfeat" if matches == "xfeat" else folder
        self._work.mkdir(exist_ok=True)
        self._database = self._work / "database.db"
        self._num_threads, self._progress, self._report = num_threads, progress, report

    def reconstruct(self, matching: Matching, *, video: bool = False):
        """Pose the photographs.

        Args:
            matching: How pairs to compare are chosen, see :func:`pairs_in_order`.
            video: The copies are frames of a video.

        Returns:
            The ``pycolmap.Reconstruction`` that poses most photographs.

        Raises:
            PhotosError: No photograph could be posed, or XFeat is not installed.
        """
        self._pycolmap.set_random_seed(_SEED)
        if self._matches == "xfeat":
            self._match_by_network()
            return self.map()
        self._find_features()
        if matching == "auto":
            matching = "sequential" if video and len(self._copies) > _FEW_FRAMES else "exhaustive"
        self._match(matching)
        return self.map()

    def _find_features(self) -> None:
        pycolmap = self._pycolmap
        image_ids = import_images(pycolmap, self._database, self._images, self._copies.cameras)
        reader = pycolmap.ImageReaderOptions()
        if self._copies.masked:
            reader.mask_path = self._masks
        options = pycolmap.FeatureExtractionOptions()
        options.num_threads = self._num_threads
        self._run_counted(
            "features",
            lambda database: sum(map(database.exists_keypoints, image_ids)) / len(image_ids),
            lambda token: pycolmap.extract_features(
                self._database,
                self._images,
                reader_options=reader,
                extraction_options=options,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            ),
        )

    def _match_by_network(self) -> None:
        """Write keypoints and verified matches of every pair into a new database."""
        from l2o_splat.scenes.learned_features import find_features, match_all  # imports torch

        pycolmap, count = self._pycolmap, len(self._copies)
        import_images(pycolmap, self._database, self._images, self._copies.cameras)
        found, pairs = {}, []
        self._progress("features", 0.0)
        for name, features in find_features(pycolmap, self._database, self._images, self._masks):
            found[name] = features
            self._progress("features", len(found) / count)
        self._progress("matching", 0.0)
        for pair in match_all(pycolmap, self._database, found):
            pairs.append(pair)
            self._progress("matching", len(pairs) / (count * (count - 1) / 2))
        listed = self._list(pairs)
        run_watched(
            lambda: pycolmap.verify_matches(self._database, listed, self._verification()),
            lambda: self._progress("matching", 1.0),
        )

    def _list(self, pairs: Iterable[tuple[str, str]]) -> Path:
        """Write pairs of photographs into a file that COLMAP reads."""
        path = self._work / "pairs.txt"
        path.write_text("".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
        return path

    def _verification(self):
        options = self._pycolmap.TwoViewGeometryOptions()
        options.ransac.random_seed = _SEED
        return options

    def _match(self, matching: Literal["exhaustive", "sequential"]) -> None:
        pycolmap = self._pycolmap
        options = pycolmap.FeatureMatchingOptions()
        options.num_threads = self._num_threads
        names = sorted(self._copies.originals)
        num_pairs = len(names) * (len(names) - 1) // 2
        if matching == "sequential":
            pairs = pairs_in_order(names)
            num_pairs = len(pairs)
            pairing = pycolmap.ImportedPairingOptions()
            pairing.match_list_path = self._list(pairs)
            pairing.block_size = _BLOCK**2
            match = pycolmap.match_image_pairs
        else:
            pairing = pycolmap.ExhaustivePairingOptions()
            pairing.block_size = _BLOCK
            match = pycolmap.match_exhaustive
            if len(names) > _MANY_PHOTOGRAPHS:
                self._report(
                    f"Comparing all {num_pairs} pairs of {len(names)} photographs takes long; if they follow a walk, "
                    "--matching sequential compares a fraction."
                )
        self._run_counted(
            "matching",
            lambda database: database.num_matched_image_pairs() / num_pairs,
            lambda token: match(
                self._database,
                matching_options=options,
                pairing_options=pairing,
                verification_options=self._verification(),
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            ),
        )

    def map(self):
        models = self._map_incrementally()
        if self._share(models) < ENOUGH:
            models += merged(
                self._pycolmap, models, self._database, self._images, self._work / "merged", self._num_threads
            )
        if self._share(models) < ENOUGH:
            models += self._map_globally()
        if not models:
            raise PhotosError(
                f"None of the {len(self._copies)} photographs could be posed; they need detail, sharpness and more "
                "than half of each shared with the next: take more photographs around the same scene."
            )
        best = max(models, key=num_posed)
        return best if num_posed(best) == len(self._copies) else max([best, *self._add_rest(best)], key=num_posed)

    def _share(self, models: list) -> float:
        return max(map(num_posed, models), default=0) / len(self._copies)

    def _map_incrementally(self) -> list:
        options = self._pycolmap.IncrementalPipelineOptions()
        options.min_model_size = 2
        return self._run_incremental("mapping", len(self._copies), options)

    def _add_rest(self, model) -> list:
        """The model with those of the missing photographs that few matches pose."""
        options = self._pycolmap.IncrementalPipelineOptions()
        options.multiple_models = False
        options.mapper.abs_pose_min_num_inliers = _REST_INLIERS
        options.mapper.abs_pose_min_inlier_ratio = _REST_INLIER_RATIO
        start = self._work / "start"
        start.mkdir()
        model.write(start)
        return self._run_incremental("rest", len(self._copies) - num_posed(model), options, input_path=start)

    def _run_incremental(self, phase: str, expected: int, options, **start) -> list:
        """Incremental mapping of ``expected`` photographs."""
        pycolmap = self._pycolmap
        options.random_seed = _SEED
        options.num_threads = self._num_threads
        folder = self._work / f"{phase} models"
        folder.mkdir()
        posed = most = 0

        def begin_model() -> None:
            nonlocal posed
            posed = 2

        def count() -> None:
            nonlocal posed, most
            posed += 1
            most = max(most, posed)

        token = pycolmap.CancellationToken()
        self._progress(phase, 0.0)
        models = run_watched(
            lambda: pycolmap.incremental_mapping(
                self._database,
                self._images,
                folder,
                options=options,
                # Called once the first two photographs of a model have a pose; then the other one after each.
                initial_image_pair_callback=begin_model,
                next_image_callback=count,
                cancellation_token=token,
                **start,
            ),
            lambda: self._progress(phase, min(most / expected, 1.0)),
            token.cancel,
        )
        self._progress(phase, 1.0)
        return _with_poses(models.values())

    def _map_globally(self) -> list:
        pycolmap = self._pycolmap
        options = pycolmap.GlobalPipelineOptions()
        options.random_seed = options.mapper.random_seed = _SEED
        options.num_threads = options.mapper.num_threads = self._num_threads
        folder = self._work / "global"
        folder.mkdir()
        self._progress("global mapping", 0.0)
        models = run_watched(
            lambda: pycolmap.global_mapping(self._database, self._images, folder, options=options),
            lambda: self._progress("global mapping", 0.5),
        )
        self._progress("global mapping", 1.0)
        return _with_poses(models.values())

    def _run_counted(self, phase: str, share: Callable[[Any], float], work: Callable) -> None:
        """Run COLMAP and tell the share of the phase that the database holds."""
        token = self._pycolmap.CancellationToken()
        self._progress(phase, 0.0)
        # By COLMAP itself: a second SQLite in this process, as Python's, would break the locks of the first.
        with closing(self._pycolmap.Database.open(self._database)) as database:
            run_watched(lambda: work(token), lambda: self._progress(phase, min(share(database), 1.0)), token.cancel)
        self._progress(phase, 1.0)


def _with_poses(models: Iterable) -> list:
    """Models without the poses that hardly any point holds, as far as two photographs or more keep theirs."""
    firm = map(without_loose_poses, models)
    return [model for model in firm if num_posed(model) >= 2]


def import_images(pycolmap, database: Path, images: Path, cameras: dict[str, Hashable]) -> list[int]:
    """Number the images by name in a new database, with one camera for those that share one; returns the numbers.

    Before the threads of the extraction race: readers of the model hold out every 8th number.
    """
    pycolmap.Database.open(database).close()
    camera_ids: dict[Hashable, int] = {}
    for camera, group in groupby(sorted(cameras), key=cameras.__getitem__):
        names = list(group)
        options = pycolmap.ImageReaderOptions()
        if camera in camera_ids:
            options.existing_camera_id = camera_ids[camera]
        pycolmap.import_images(database, images, pycolmap.CameraMode.SINGLE, image_names=names, options=options)
        with closing(pycolmap.Database.open(database)) as opened:
            camera_ids[camera] = opened.read_image_with_name(names[0]).camera_id
            image_ids = sorted(image.image_id for image in opened.read_all_images())
    return image_ids


def pairs_in_order(names: list[str]) -> list[tuple[str, str]]:
    """Pairs of photographs that follow each other on a way, and pairs that close its loops.

    Each with the next 10 and those 16, 32, 64, ... further on, and up to 60 evenly spread ones all with each other.
    """
    steps = [*range(1, _NEIGHBOURS + 1), *(2**k for k in range(4, len(names).bit_length()))]
    pairs = {(i, i + step) for i in range(len(names)) for step in steps if i + step < len(names)}
    spacing = max(_NEIGHBOURS // 2, -(-len(names) // _LANDMARKS))
    pairs |= set(combinations(range(0, len(names), spacing), 2))
    return [(names[i], names[j]) for i, j in sorted(pairs)]
