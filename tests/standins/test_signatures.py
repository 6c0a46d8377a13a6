"""The recorded signatures are those of the packages."""

import importlib.metadata

import pytest

from tests.standins.signatures import FUSED_SSIM, GSPLAT_RASTERIZATION, read_signature


def test_the_installed_gsplat_is_recorded():
    """Read, not imported: its import may start a CUDA build."""
    try:
        package = importlib.metadata.distribution("gsplat")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("gsplat is not installed")
    if package.version not in GSPLAT_RASTERIZATION:
        pytest.skip(f"gsplat {package.version} is not recorded; {list(GSPLAT_RASTERIZATION)} are")
    source = package.locate_file("gsplat/rendering.py").read_text()
    found, recorded = read_signature(source, "rasterization"), GSPLAT_RASTERIZATION[package.version]
    assert list(found.items()) == list(recorded.items())


def test_the_installed_fused_ssim_is_recorded():
    try:
        package = importlib.metadata.distribution("fused-ssim")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fused-ssim is not installed")
    source = package.locate_file("fused_ssim/__init__.py").read_text()
    assert list(read_signature(source, "fused_ssim").items()) == list(FUSED_SSIM.items())


def test_a_signature_is_read_as_python_understands_it():
    source = "import nothing_like_this\nclass Mode: FULL = 1\ndef f(a, b: int = 1, *, c=2): pass\n"
    with pytest.raises(AssertionError):
        read_signature(source, "f")
    source = source.replace("*, ", "").replace("c=2", "c: str = Mode.FULL, d=-1.5, e=None")
    assert read_signature(source, "f") == {"a": ..., "b": 1, "c": "Mode.FULL", "d": -1.5, "e": None}
