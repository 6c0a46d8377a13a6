"""Entries of ``--ply``: scenes of any program, as PLY files in the layout of 3DGS."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from l2o_splat.bench.errors import BenchError

PlyFrame = Literal["detect", "dataparser", "capture", "transforms"]
"""Coordinates of a PLY. ``dataparser``: as nerfstudio trains and exports. ``capture``: of the capture's original poses,
COLMAP's say, as 3DGS writes. ``transforms``: of the file transforms.json, where it says that they were changed
(``applied_transform``). ``detect``: whichever shows the training photographs best."""

HIGHEST_DEGREE = 3
"""SH degree that can be drawn."""


@dataclass(frozen=True)
class PlyScene:
    """A file whose scene is measured."""

    path: str
    """Absolute path of the file."""
    sha256: str
    """Hash of the file's content, so that a file that has changed is measured again."""
    frame: PlyFrame


def find_ply(text: str, frame: PlyFrame) -> tuple[str, PlyScene]:
    """Parse one entry of ``--ply``, ``NAME=FILE``: the name in the report, and the file.

    Raises:
        BenchError: If it has another form, or the file cannot be read or is no splat.
    """
    from l2o_splat.ply import read_ply

    parts = re.fullmatch(r"([\w.+-]+)=(.+)", text, re.DOTALL)
    if parts is None:
        raise BenchError(f"--ply {text!r} is not NAME=FILE; give a name for the report and a PLY: 'opensplat=a.ply'.")
    path = Path(parts[2]).expanduser().resolve()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        gaussians = read_ply(path)
    except OSError as error:
        raise BenchError(f"--ply {path} cannot be read ({error.strerror}); give a PLY of Gaussians.") from error
    except ValueError as error:
        raise BenchError(f"--ply: {error}") from error
    if not len(gaussians):
        raise BenchError(f"--ply {path} holds no Gaussians; export it again.")
    if gaussians.sh_degree > HIGHEST_DEGREE:
        raise BenchError(
            f"--ply {path} has SH degree {gaussians.sh_degree}, and degrees up to {HIGHEST_DEGREE} can be drawn; "
            "export it with fewer."
        )
    return parts[1], PlyScene(str(path), digest, frame)
