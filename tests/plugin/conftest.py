import pytest

from tests.plugin.captures import write_tiny_capture


@pytest.fixture
def tiny_capture(tmp_path):
    return write_tiny_capture(tmp_path / "capture")
