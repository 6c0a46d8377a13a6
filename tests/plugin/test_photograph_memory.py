"""Captures that do not fit in memory: the same numbers, every file decoded once, and no more bytes than allowed."""

import os
import subprocess
import sys
import weakref
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from l2o_splat import losses
from l2o_splat.plugin import photograph_memory
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import L2ODataManager, L2ODataManagerConfig
from l2o_splat.plugin.dataset import CheckedDataset
from l2o_splat.plugin.errors import OptionError
from l2o_splat.plugin.photograph_memory import (
    COPIES_IN_DECODING,
    LOADERS,
    MemoryBudget,
    PhotographMemory,
    loss_bytes,
    memory_plan,
)
from l2o_splat.plugin.photograph_store import PhotographStore, ReadAhead, size_in_bytes
from tests.plugin.captures import edit_transforms, method_config, train, write_tiny_capture
from tests.plugin.noise_capture import write_noise

BLACK = torch.zeros(3)
WIDTH, HEIGHT = 192, 144
PHOTOGRAPH = 3 * WIDTH * HEIGHT


def gib(photographs: float) -> float:
    """The option that leaves room for so many photographs at full size."""
    return photographs * PHOTOGRAPH / photograph_memory.FULL_SIZE / 2**30


def read(capture, cache_gib=None, kind="uint8", **options) -> L2ODataManager:
    parser = NerfstudioDataParserConfig(data=capture, eval_mode="interval", eval_interval=8, load_3D_points=True)
    config = L2ODataManagerConfig(
        dataparser=parser, cache_gib=cache_gib, cache_images_type=kind, views_per_step=3, **options
    )
    return config.setup(device="cpu")


def memory(photographs: float) -> PhotographMemory:
    return PhotographMemory.of(10**9, "cpu", False, gib(photographs))


def photographs(count=6, masks=True, kind=torch.uint8) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        image = torch.randint(256, (HEIGHT, WIDTH, 3), generator=generator, dtype=torch.uint8)
        data = {"image_idx": i, "image": image if kind == torch.uint8 else image.float() / 255}
        made.append(data | ({"mask": image[..., :1] > 20} if masks else {}))
    return made


def same(found: dict, expected: dict) -> bool:
    tensors = [name for name in expected if isinstance(expected[name], torch.Tensor)]
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and found[name].equal(expected[name]) for name in tensors
    )


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """An empty folder for scratch files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_what_goes_to_disk_comes_back_bit_for_bit(scratch, masks, kind):
    given = photographs(masks=masks, kind=kind)
    store = PhotographStore(len(given), memory(2.5 * (1 if kind == torch.uint8 else 4)))
    for index in (4, 1, 0, 2, 5, 3):
        data = given[index]
        # As undistorting leaves it: a part of a larger picture.
        larger = torch.nn.functional.pad(data["image"], (0, 0, 3, 5, 2, 2))
        store.put(index, data | {"image": larger[2:-2, 3:-5]})
    assert 0 < sum(store.is_on_disk(index) for index in range(6)) < 6
    for _ in range(2):
        assert all(same(found, expected) for found, expected in zip(store, given, strict=True))
    assert same(store[-1], given[-1])
    assert list(scratch.iterdir()) == []  # The file has no name, so that nothing is left behind.


def test_what_is_kept_never_exceeds_the_budget_and_lies_alone_in_its_memory():
    given, allowed = photographs(masks=False), memory(3.2)
    store = PhotographStore(len(given), allowed)
    for index, data in enumerate(given):
        larger = torch.zeros(4 * HEIGHT, WIDTH, 3, dtype=torch.uint8)
        larger[:HEIGHT] = data["image"]
        store.put(index, data | {"image": larger[:HEIGHT]} if index % 2 else data)
    kept = [store[index]["image"] for index in range(6) if not store.is_on_disk(index)]
    assert len(kept) == 3 and allowed.full_size.used == 3 * PHOTOGRAPH <= allowed.full_size.limit
    assert allowed.reduced().limit == allowed.limit - 3 * PHOTOGRAPH


def test_what_is_read_ahead_is_read_once_and_forgotten_with_the_next_step():
    reads = Counter()

    def read_one(index):
        reads[index] += 1
        return {"image_idx": index}

    ahead = ReadAhead(read_one)
    ahead.start([3, 5])
    assert [ahead.get(index)["image_idx"] for index in (3, 5, 3, 7)] == [3, 5, 3, 7]
    ahead.start([5, 6])
    assert ahead.get(5) == {"image_idx": 5} and reads[5] == 1
    ahead.get(3)
    assert (reads[3], reads[7]) == (2, 1)


def test_an_error_while_reading_ahead_reaches_who_asks():
    def broken(index):
        raise CaptureError("cut")

    ahead = ReadAhead(broken)
    ahead.start([0])
    with pytest.raises(CaptureError, match="cut"):
        ahead.get(0)


@pytest.mark.parametrize("kind", ["masks", "alpha", "distorted"])
def test_a_capture_on_disk_gives_the_numbers_of_one_in_memory(tiny_capture, scratch, kind, capsys):
    write_noise(tiny_capture, ((WIDTH, HEIGHT),), kind == "masks", kind == "alpha")
    if kind == "distorted":
        edit_transforms(tiny_capture, lambda meta: [frame.update(k1=-0.1) for frame in meta["frames"]])
    whole, streamed = read(tiny_capture), read(tiny_capture, gib(2))
    said = "".join(capsys.readouterr().out.split())
    assert said.count("scratchfile") == 1 and "stayinmemory" in said
    assert sum(streamed.cached_train.is_on_disk(i) for i in range(7)) >= 5
    assert not any(whole.cached_train.is_on_disk(i) for i in range(7))
    assert all(map(same, streamed.cached_train, whole.cached_train))
    steps = [(0, 1.0), (1, 1.0), (2, 0.5), (3, 0.5), (4, 0.5), (5, 1.0), (5, 0.5), (2, 1.0), (3, 1.0)]
    for step, scale in steps:
        (found,), (expected,) = (manager.next_train_photographs(step, BLACK, scale) for manager in (streamed, whole))
        found, expected = found.views(), expected.views()
        assert found.images.equal(expected.images) and found.cameras.Ks.equal(expected.cameras.Ks)
        assert (found.masks is None) == (expected.masks is None)
        assert found.masks is None or found.masks.equal(expected.masks)
    for manager in (streamed, whole):
        assert len(manager.fixed_indices_eval_dataloader) == 2
    for (camera, found), (other, expected) in zip(
        streamed.fixed_indices_eval_dataloader, whole.fixed_indices_eval_dataloader, strict=True
    ):
        assert same(found, expected) and camera.fx.equal(other.fx)
    for index in (0, 6):
        assert streamed.train_dataset[index]["image"].equal(whole.train_dataset[index]["image"])


def test_every_file_is_decoded_once(tiny_capture, monkeypatch):
    write_noise(tiny_capture)
    decoded, decode = Counter(), CheckedDataset.get_numpy_image

    def counted(self, index):
        decoded[self.image_filenames[index].name] += 1
        return decode(self, index)

    monkeypatch.setattr(CheckedDataset, "get_numpy_image", counted)
    manager = read(tiny_capture, gib(1))
    for step in range(12):
        for group in manager.next_train_photographs(step, BLACK, 0.5 if step < 6 else 1.0):
            group.views()
    list(manager.fixed_indices_eval_dataloader), manager.train_dataset[2]
    assert decoded == {f"{i:03d}.png": 1 for i in range(9)}


def test_reduced_photographs_share_the_budget(tiny_capture):
    """One that fits beside those of full size is made once; one that does not is made again."""
    write_noise(tiny_capture)
    manager = read(tiny_capture, gib(0.9))  # None fits at full size, and about 5 at half of it.
    assert manager._memory.full_size.used == 0
    for step in range(6):
        manager.next_train_photographs(step, BLACK, 0.5)
    scaled = manager._scaled
    kept = sum(map(size_in_bytes, scaled._kept.values()))
    assert 0 < len(scaled._kept) < 7 and kept == scaled._budget.used <= scaled._budget.limit
    first = next(iter(scaled._kept))
    assert manager.train_photographs([first], BLACK, 0.5).stored[0] is scaled._kept[first]["image"]
    manager.next_train_photographs(6, BLACK, 1.0)
    assert scaled._kept == {} and scaled._budget.used == 0


def test_a_run_from_disk_is_that_from_memory_bit_for_bit(tiny_capture, tmp_path):
    found = []
    for name, cache_gib in (("memory", None), ("disk", 1e-6)):
        config = method_config(tiny_capture, tmp_path / name, steps=4)
        config.pipeline.datamanager.cache_gib = cache_gib
        pipeline = train(config).pipeline
        assert pipeline.datamanager.cached_train.is_on_disk(0) == (name == "disk")
        found.append((pipeline.model.gaussians.pack(), pipeline.get_average_eval_image_metrics()["psnr"]))
    assert found[0][0].equal(found[1][0]) and found[0][1] == found[1][1]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_decoded(tiny_capture, scratch, monkeypatch):
    write_noise(tiny_capture)
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(photograph_memory.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(CheckedDataset, "get_numpy_image", lambda self, index: pytest.fail("decoded"))
    with pytest.raises(CaptureError, match="scratch has 0.0 GB; name a folder with more in TMPDIR, allow more memory"):
        read(tiny_capture, gib(2))


def test_a_folder_that_cannot_be_written_to_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("l2o_splat.plugin.photograph_store.scratch_folder", lambda: tmp_path / "none")
    store = PhotographStore(1, memory(0.5))
    with pytest.raises(CaptureError, match="could not be written to .*none"):
        store.put(0, photographs(1)[0])


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_amount_of_memory_that_is_none_is_refused(tiny_capture, value):
    with pytest.raises(OptionError, match="cache-gib is .*above 0"):
        read(tiny_capture, value)


def test_budgets():
    budget = MemoryBudget(10)
    assert budget.take(7) and not budget.take(4) and budget.take(3) and budget.used == 10
    budget.give_back(3)
    assert not budget.take(4) and budget.take(3)


def test_photographs_lie_on_the_card_only_if_all_of_them_fit(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * 2**30, 24 * 2**30))
    most = photograph_memory.MOST_ON_CARD
    assert PhotographMemory.of(most, "cuda", True, None).device.type == "cuda"
    for total, wanted in ((most + 1, True), (1, False)):
        found = PhotographMemory.of(total, "cuda", wanted, None)
        assert (found.device.type, found.pinned) == ("cpu", True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 24 * 2**30))
    assert PhotographMemory.of(2**29, "cuda", True, None).device.type == "cpu"


def test_two_thousand_photographs_of_twelve_megapixels():
    plan = memory_plan(2000, 4000, 3000, views_per_step=8, masks=True)
    assert sum(plan.host.values()) < 8e9 and sum(plan.card.values()) < 16e9
    assert plan.scratch + plan.host["kept at full size"] == 2000 * 4 * 4000 * 3000


def test_the_plan_is_what_is_allocated(tiny_capture):
    write_noise(tiny_capture, masks=True)
    manager = read(tiny_capture, gib(4))
    plan = memory_plan(9, WIDTH, HEIGHT, 3, manager._memory.limit, masks=True)
    assert manager._memory.full_size.used == plan.host["kept at full size"]
    assert manager.cached_train._scratch._end + manager.cached_eval._scratch._end == plan.scratch
    most = 0
    for step in range(8):
        (group,) = manager.next_train_photographs(step, BLACK)
        ahead = [future.result() for future in manager.cached_train._ahead._pending.values()]
        held = sum(not manager.cached_train.is_on_disk(index) for index in manager.view_sampler.views(step))
        most = max(most, sum(map(size_in_bytes, ahead)) + (len(group) - held) * plan.card["copy"])
    assert 0 < most <= plan.host["of a step and the next"]
    views = group.views()
    assert views.images.nbytes == plan.card["images of a step"] and views.masks.nbytes == plan.card["masks of a step"]
    assert size_in_bytes(manager.cached_train[0]) == plan.card["copy"]
    decoding = plan.host["being decoded"]
    assert decoding == LOADERS * COPIES_IN_DECODING * (PHOTOGRAPH + WIDTH * HEIGHT)


class LivingBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_flatten(made)[0]:
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self._sizes:
                self._sizes[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return made

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("views", "together"), [(8, 1), (3, 1), (4, 4)])
def test_the_loss_takes_what_the_plan_says(monkeypatch, masked, views, together):
    """With the operations that a card runs, for views that are compared one by one and together."""
    height, width = 80, 120
    monkeypatch.setattr(losses, "numba_works", lambda: False)
    monkeypatch.setattr(losses, "PIXELS_AT_ONCE", together * height * width)
    generator = torch.Generator().manual_seed(0)
    rendered, images = torch.rand(2, views, height, width, 3, generator=generator)
    masks = (torch.rand(views, height, width, 1, generator=generator) > 0.01).float() if masked else None
    rendered.requires_grad_()
    with LivingBytes() as living:
        losses.photometric_loss(rendered, images, masks).backward()
    planned = height * width * loss_bytes(views, together, masked)
    assert 0.7 * planned < living.most < planned


PROGRAM = """
import sys, re
import numpy as np, torch
from pathlib import Path
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from l2o_splat.plugin.datamanager import L2ODataManagerConfig
from l2o_splat.plugin.dataset import CheckedDataset
from l2o_splat.reduction.trial import compile_reduction

torch.set_num_threads(1)
compile_reduction()

def synthetic(self, index):
    return np.full((768, 1024, 3), index, np.uint8)

def resident(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

CheckedDataset.get_numpy_image = synthetic
parser = NerfstudioDataParserConfig(data=Path(sys.argv[1]), eval_mode="interval", load_3D_points=True)
config = L2ODataManagerConfig(dataparser=parser, cache_gib=float(sys.argv[2]), views_per_step=4)
before = resident("VmRSS")
manager = config.setup(device="cpu")
for step in range(40):
    for group in manager.next_train_photographs(step, torch.zeros(3), 0.5 if step < 20 else 1.0):
        for view in range(len(group)):
            group.photograph(view)
for _, data in manager.fixed_indices_eval_dataloader:
    data["image"][0, 0, 0].item()
print("grew by", resident("VmHWM") - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Peak memory is read from /proc.")
def test_two_hundred_photographs_stay_under_their_budget(tmp_path):
    """Peak resident memory of a process: budget, the views of two steps, and what lies around decoding."""
    capture = write_tiny_capture(tmp_path / "capture", num_views=200)
    edit_transforms(capture, lambda meta: meta.update(w=1024, h=768, cx=512.0, cy=384.0))
    photograph, limit = 3 * 1024 * 768, 64 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, capture, str(limit / 2**30)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout.split()[-1])
    # Two photographs as floats, and what Python and its libraries take for 200 cameras and the threads.
    allowed = sum(memory_plan(200, 1024, 768, 4, limit).host.values()) + 2 * 4 * photograph + 80e6
    assert 2 * photograph * 8 < grown < allowed < 0.5 * 200 * photograph
