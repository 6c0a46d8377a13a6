"""What leaves the project: a scene right side up, in the files that other programs read, and as a page to look at."""

from l2o_splat.sharing.errors import SharingError
from l2o_splat.sharing.formats import SUFFIXES, read_splat, write_splat
from l2o_splat.sharing.page import write_view_page
from l2o_splat.sharing.selection import cut_harmonics, opaque, seen_in, used_degree
from l2o_splat.sharing.upright import UpAxis, up_direction, upright_frame

__all__ = [
    "SUFFIXES",
    "SharingError",
    "UpAxis",
    "cut_harmonics",
    "opaque",
    "read_splat",
    "seen_in",
    "up_direction",
    "upright_frame",
    "used_degree",
    "write_splat",
    "write_view_page",
]
