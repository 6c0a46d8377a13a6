"""HEIC photographs, which Pillow reads with the help of pillow-heif alone."""

from __future__ import annotations

HEIF_SUFFIXES = (".heic", ".heif")


def heif_is_readable() -> bool:
    """Whether HEIC photographs can be read: they can where pillow-heif is installed, which then joins Pillow."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
