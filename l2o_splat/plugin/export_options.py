"""Options of evaluation and export, checked before anything is imported that takes seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2o_splat.plugin.errors import OptionError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

Triple = tuple[float, float, float]


def check_output(path: Path, suffix: str | None = None) -> None:
    """Refuse a file or folder that cannot be written, before any work.

    Args:
        path: A file if there is a suffix, otherwise a folder, which is made.
        suffix: What the name of the file must end with.

    Raises:
        OptionError: The message names the path.
    """
    if suffix is not None and path.suffix != suffix:
        raise OptionError(f"The output {path} is not called *{suffix}; name a file that ends with {suffix}.")
    folder = path if suffix is None else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder} cannot be made ({error.strerror}); choose another output.") from error
    if suffix is not None and path.is_dir():
        raise OptionError(f"The output {path} is a folder; name a file that ends with {suffix}.")


@dataclass(frozen=True)
class Crop:
    """A box in scene units, outside of which nothing is exported."""

    center: Triple
    rotation: Triple
    """Roll, pitch, yaw, radians."""
    scale: Triple
    """Sides."""

    @classmethod
    def from_options(cls, center: Triple | None, rotation: Triple | None, scale: Triple | None) -> Crop | None:
        """The box of three options, None if there is none.

        Raises:
            OptionError: If some of them are missing, or are no numbers of a box.
        """
        given = {"--obb-center": center, "--obb-rotation": rotation, "--obb-scale": scale}
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == 3:
            return None
        if missing:
            raise OptionError(
                f"{' and '.join(missing)} missing; a crop box needs all of {', '.join(given)}, and without one of them "
                "nothing would be cropped."
            )
        for name, value in given.items():
            if not all(map(math.isfinite, value)) or (name == "--obb-scale" and min(value) <= 0):
                needed = "three positive numbers are" if name == "--obb-scale" else "three finite numbers are"
                raise OptionError(f"{name} is {' '.join(map(str, value))}; {needed} needed.")
        return cls(center, rotation, scale)

    def within(self, means: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Which centres nerfstudio's exporter keeps."""
        from nerfstudio.data.scene_box import OrientedBox

        box = OrientedBox.from_params(*(tuple(map(float, part)) for part in (self.center, self.rotation, self.scale)))
        return box.within(means)


@dataclass(frozen=True)
class Selection:
    """What of a scene is exported.

    Raises:
        OptionError: If a number makes no sense.
    """

    crop: Crop | None
    least_opacity: float
    """0 to 1."""
    seen_in: int
    """Fewest training photographs in which the centre of a Gaussian must lie."""
    sh_degree: int | None
    """Highest degree of spherical harmonics; None for all."""

    def __post_init__(self) -> None:
        if not 0 <= self.least_opacity < 1:
            raise OptionError(f"--least-opacity is {self.least_opacity}; a number from 0 to below 1 is needed.")
        if self.seen_in < 0:
            raise OptionError(f"--seen-in is {self.seen_in}; a number of photographs is needed, 0 for any.")
        if self.sh_degree is not None and self.sh_degree < 0:
            raise OptionError(f"--sh-degree is {self.sh_degree}; 0 or more is needed.")

    @property
    def beyond_nerfstudio(self) -> bool:
        """Whether something is asked for that ns-export does not know."""
        return self.least_opacity > 0 or self.seen_in > 0 or self.sh_degree is not None


def check_formats(formats: Sequence[str]) -> None:
    """Refuse an export in no format.

    Raises:
        OptionError: If there is none.
    """
    if not formats:
        raise OptionError("--format names no format; name one or more of ply, spz, sog, safetensors and html.")


def check_plain_colours(plain: bool) -> None:
    """Refuse plain colours together with what only our own files have.

    Raises:
        OptionError: If ``plain`` is false.
    """
    if not plain:
        raise OptionError(
            "--ply-color-mode rgb writes a PLY of points, as trained; leave out --format, --up, --sh-degree, "
            "--least-opacity and --seen-in, or the colour mode."
        )
