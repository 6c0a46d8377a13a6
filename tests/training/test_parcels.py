"""Parcels: what is unpacked is what was packed, with or without shared memory, and nothing is left behind."""

import errno
import gc
from pathlib import Path

import pytest
import torch

from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.training import parcels
from l2o_splat.training.parcels import pack, shared_folder, unpack


@pytest.fixture(scope="module")
def capture():
    return generate(0, ProceduralOptions(num_views=3, width=17, height=11, num_points=7))


def check(found, capture):
    for one, other in (
        (found.views.images, capture.views.images),
        (found.depths, capture.depths),
        (found.points.xyz, capture.points.xyz),
        (found.views.cameras.viewmats, capture.views.cameras.viewmats),
    ):
        assert torch.equal(one, other) and one.dtype == other.dtype
    found.views.images.add_(1)  # It is nobody else's.


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_capture_arrives_bit_for_bit(capture, tmp_path, in_memory):
    parcel = pack(capture, tmp_path if in_memory else None)
    assert isinstance(parcel.content, Path) == in_memory
    assert len(list(tmp_path.iterdir())) == in_memory
    before = capture.views.images.clone()
    check(unpack(parcel), capture)
    assert torch.equal(capture.views.images, before)
    assert list(tmp_path.iterdir()) == []


def test_tensors_without_numbers_and_other_objects_arrive(tmp_path):
    value = {
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
        "text": "why",
        "turned": torch.rand(3, 2).T,
    }
    found = unpack(pack(value, tmp_path))
    assert found["text"] == "why" and found["empty"].shape == (0, 3) and found["flags"].tolist() == [True, False]
    assert torch.equal(found["turned"], value["turned"])


def test_full_shared_memory_is_left_for_the_pipe(capture, tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def writelines(self, lines):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode):
        path.touch()
        return Full()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        parcel = pack(capture, tmp_path)
    assert isinstance(parcel.content, bytes) and list(tmp_path.iterdir()) == []
    check(unpack(parcel), capture)
    assert isinstance(pack(capture, tmp_path / "gone").content, bytes)


def test_the_folder_goes_with_its_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(parcels, "shared_memory", lambda: tmp_path)
    folder = shared_folder()
    (Path(folder.name) / "parcel").write_bytes(b"in flight")
    del folder
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(parcels, "shared_memory", lambda: None)
    assert shared_folder() is None
