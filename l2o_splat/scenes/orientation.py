"""Whether photographs with an EXIF orientation are turned: as the ones were from which the poses were made.

Some tools pose the pixels as stored (COLMAP), others turn a photograph upright first, and a capture does not say
which. The rule, for each photograph with an orientation other than 1:

1. The camera's size decides if only one of the stored and the turned picture has it.
2. Otherwise the poses decide: the upright direction of the photograph in the world, if it is turned and if it is not,
   is compared with the mean upright direction of the photographs that leave no doubt. The nearer one counts.
3. If that does not decide (every photograph in doubt, or cameras without a common upright direction), the photograph
   is turned, with a warning. A mirrored photograph has no poses of its own, so it is turned as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float

from l2o_splat.scenes.pixels import PhotographHeader

MIRRORED = (2, 4, 5, 7)

_UPRIGHT_IN_STORED = {1: (0, 1), 3: (0, -1), 6: (-1, 0), 8: (1, 0)}
"""Where the upper side of the turned picture lies in the stored one, x right and y up."""
_COMMON_UPRIGHT = 0.5
"""The mean of the unit upright directions must be this long to say anything."""
_CLEARLY_NEARER = 0.3
"""One direction must be nearer to the mean than the other by this much of a cosine."""


class Turning(Enum):
    """Why a photograph is turned or not."""

    NO_TAG = "it carries no orientation"
    FITS_TURNED = "only the turned picture has the size of its camera"
    FITS_STORED = "only the stored picture has the size of its camera"
    POSED_TURNED = "its pose is that of the turned picture"
    POSED_STORED = "its pose is that of the stored picture"
    DOUBTFUL = "nothing tells whether its pose is that of the turned picture"

    @property
    def upright(self) -> bool:
        """Whether the photograph is read turned."""
        return self not in (Turning.FITS_STORED, Turning.POSED_STORED)


@dataclass(frozen=True)
class PosedHeaders:
    """What the files of some photographs say, and their cameras."""

    headers: Sequence[PhotographHeader]
    sizes: Sequence[tuple[int, int]]
    """Width and height of the cameras, pixels."""
    rotations: Float[np.ndarray, "v 3 3"]
    """World-from-camera rotations, OpenGL axes (x right, y up)."""

    def upright(self, i: int, turned: bool) -> Float[np.ndarray, 3]:
        """Upright direction of photograph i in the world, by whether its pose is that of the turned picture."""
        right, up = _UPRIGHT_IN_STORED[1 if turned else self.headers[i].orientation]
        return right * self.rotations[i][:, 0] + up * self.rotations[i][:, 1]


def decide_turning(photographs: PosedHeaders, others: Sequence[PosedHeaders] = ()) -> list[Turning]:
    """Decide for each photograph; ``others`` are of the same capture and help to find its upright direction."""
    reasons = [_by_size(header, size) for header, size in zip(photographs.headers, photographs.sizes, strict=True)]
    if None not in reasons:
        return reasons
    parts = (photographs, *others)
    directions = np.concatenate([_certain_directions(part) for part in parts])
    mean = directions.mean(axis=0) if len(directions) else np.zeros(3)
    clear = {
        _by_pose(part, i, mean)
        for part in parts
        for i, (header, size) in enumerate(zip(part.headers, part.sizes, strict=True))
        if _by_size(header, size) is None
    } - {Turning.DOUBTFUL}
    agreed = clear.pop() if len(clear) == 1 else Turning.DOUBTFUL
    return [reason or _by_pose(photographs, i, mean, agreed) for i, reason in enumerate(reasons)]


def _by_size(header: PhotographHeader, size: tuple[int, int]) -> Turning | None:
    if header.orientation == 1:
        return Turning.NO_TAG
    fits_stored, fits_turned = header.size == size, header.upright_size == size
    if fits_stored != fits_turned:
        return Turning.FITS_TURNED if fits_turned else Turning.FITS_STORED
    return None


def _certain_directions(photographs: PosedHeaders) -> Float[np.ndarray, "n 3"]:
    directions = []
    for i, (header, size) in enumerate(zip(photographs.headers, photographs.sizes, strict=True)):
        reason = _by_size(header, size)
        if reason is not None and header.orientation not in MIRRORED:
            directions.append(photographs.upright(i, reason.upright))
    return np.array(directions).reshape(-1, 3)


def _by_pose(
    photographs: PosedHeaders, i: int, mean: Float[np.ndarray, 3], agreed: Turning = Turning.DOUBTFUL
) -> Turning:
    """What the pose of photograph i tells; ``agreed`` is what the others tell, in case it tells nothing."""
    # Written so that a pose with NaN tells nothing.
    if photographs.headers[i].orientation in MIRRORED or not np.linalg.norm(mean) > _COMMON_UPRIGHT:
        return Turning.DOUBTFUL
    unit = mean / np.linalg.norm(mean)
    turned, stored = (float(photographs.upright(i, turned) @ unit) for turned in (True, False))
    if abs(turned - stored) > _CLEARLY_NEARER:
        return Turning.POSED_TURNED if turned > stored else Turning.POSED_STORED
    return agreed
