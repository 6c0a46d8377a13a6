"""Scenes as PLY files: what is written is read again, and what is no splat is refused in one sentence."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plyfile import PlyData, PlyElement

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.learned_optimizer import as_splats
from l2o_splat.ply import read_ply, write_ply

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "library.md"
COLOURS = ["f_dc_0", "f_dc_1", "f_dc_2"]
SPLAT = ["x", "y", "z", *COLOURS, "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
"""Properties of a vertex without normals, at SH degree 0."""


def make_gaussians(n=7, sh_degree=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Gaussians.unpack(torch.randn(n, 14 + 3 * ((sh_degree + 1) ** 2 - 1), generator=generator))


def assert_equal(a, b):
    for name in FIELDS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)


def one_sentence(error):
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text and ". " not in text, text
    return text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "splat.ply"


@pytest.mark.parametrize("sh_degree", [0, 1, 3, 4])
def test_round_trip_is_exact(path, sh_degree):
    gaussians = make_gaussians(sh_degree=sh_degree)
    write_ply(gaussians, str(path))
    assert_equal(read_ply(str(path)), gaussians)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_no_gaussians_make_a_file_too(path):
    write_ply(make_gaussians(n=0), path)
    assert len(read_ply(path)) == 0


def test_layout_is_that_of_3dgs(path):
    gaussians = make_gaussians(n=3, sh_degree=1)
    write_ply(gaussians, path)
    header, data = path.read_bytes().split(b"end_header\n")
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 3\n")
    names = re.findall(r"property float (\S+)\n", header.decode())
    rest = [f"f_rest_{i}" for i in range(9)]
    assert names == ["x", "y", "z", "nx", "ny", "nz", *COLOURS, *rest, *SPLAT[6:]]
    rows = torch.frombuffer(bytearray(data), dtype=torch.float32).view(3, len(names))
    assert torch.equal(rows[:, 3:6], torch.zeros(3, 3))
    # Red's three bands, then green's, then blue's.
    assert torch.equal(rows[:, 9:18], torch.cat([gaussians.features_rest[:, :, channel] for channel in range(3)], 1))
    assert torch.equal(rows[:, 18], gaussians.opacities[:, 0])


def test_parameters_in_float64_are_written_as_float32(path):
    gaussians = make_gaussians().map(lambda tensor: tensor.double().requires_grad_())
    write_ply(gaussians, path)
    assert_equal(read_ply(path), gaussians.detach().to(torch.float32))


def test_the_documented_example_writes_and_reads(tmp_path, monkeypatch):
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL) if "_ply(" in block
    )
    monkeypatch.chdir(tmp_path)
    gaussians = make_gaussians()
    names = {"splats": as_splats(gaussians)}
    exec(compile(example, str(DOCUMENT), "exec"), names)
    for name, value in as_splats(gaussians).items():
        assert torch.equal(names["splats"][name], value), name


def test_the_package_exports_both_at_first_use():
    code = (
        "import sys, l2o_splat; assert 'torch' not in sys.modules\n"
        "from l2o_splat import read_ply, write_ply\n"
        "assert 'gsplat' not in sys.modules; print(read_ply.__name__, write_ply.__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["read_ply", "write_ply"], result.stderr


@pytest.mark.parametrize("size", [20, 400, -1])
def test_truncated_files_are_refused(path, size):
    write_ply(make_gaussians(n=50), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match="splat.ply cannot be read as a PLY .*; export it again") as error:
        read_ply(path)
    one_sentence(error)


@pytest.mark.parametrize("content", [b"", b"no ply at all\n", b"\x89PNG\r\n\x1a\n\xff\xfe", bytes(range(256))])
def test_files_that_are_no_ply_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="splat.ply cannot be read as a PLY .*; export it again") as error:
        read_ply(path)
    one_sentence(error)


@pytest.mark.parametrize("count", [b"-1", b"999999999999", b"9" * 23, b"many", b""])
def test_impossible_numbers_of_vertices_are_refused(path, count):
    write_ply(make_gaussians(n=5), path)
    path.write_bytes(path.read_bytes().replace(b"element vertex 5", b"element vertex " + count))
    with pytest.raises(ValueError, match="splat.ply cannot be read as a PLY .*; export it again") as error:
        read_ply(path)
    one_sentence(error)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileNotFoundError, match="splat.ply"):
        read_ply(path)


def write_vertices(path, names, element="vertex"):
    rows = torch.ones(2, len(names)).numpy().view([(name, "f4") for name in names])[:, 0]
    PlyData([PlyElement.describe(rows, element)]).write(path)


def test_plys_that_are_no_splats_are_refused(path):
    def refusal():
        with pytest.raises(ValueError, match="splat.ply") as error:
            read_ply(path)
        return one_sentence(error)

    write_vertices(path, ["x", "y", "z", "nx"])
    assert "no Gaussian splat: its vertices lack scale_0, scale_1" in refusal()
    write_vertices(path, [name for name in SPLAT if name != "rot_2"])
    assert "lack rot_2;" in refusal()
    write_vertices(path, SPLAT, element="point")
    assert "cannot be read as a PLY with vertices" in refusal()
    for num_rest in (8, 12):
        write_vertices(path, SPLAT + [f"f_rest_{i}" for i in range(num_rest)])
        assert f"has {num_rest} properties f_rest_*" in refusal()
    write_vertices(path, SPLAT + [f"f_rest_{i + 1}" for i in range(9)])
    assert "lack f_rest_0;" in refusal()
    header = "ply\nformat ascii 1.0\nelement vertex 1\n" + "".join(f"property float {name}\n" for name in SPLAT[:-1])
    path.write_text(header + "property list uchar float rot_3\nend_header\n" + "1 " * (len(SPLAT) - 1) + "2 1 1\n")
    assert "lack rot_3;" in refusal()


def test_properties_of_others_are_ignored(path):
    write_vertices(path, [*SPLAT, "confidence"])
    assert_equal(read_ply(path), Gaussians.unpack(torch.ones(2, 14)))


def test_non_finite_numbers_are_neither_written_nor_read(path):
    write_ply(make_gaussians(), path)
    before = path.read_bytes()
    broken = make_gaussians()
    broken.scales[2, 1] = broken.scales[3, 0] = -torch.inf
    broken.features_rest[1, 4, 2] = torch.nan
    with pytest.raises(ValueError, match=r"not written: .* \(2 in scales, 1 in features_rest\)") as error:
        write_ply(broken, path)
    one_sentence(error)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1

    write_vertices(path, SPLAT)
    vertices = PlyData.read(path, mmap=False)
    vertices["vertex"]["opacity"][1] = torch.inf
    vertices.write(path)
    with pytest.raises(ValueError, match=r"splat.ply holds .* \(1 in opacities\)") as error:
        read_ply(path)
    one_sentence(error)


def test_numbers_beyond_float32_are_refused(path):
    gaussians = make_gaussians().to(torch.float64)
    gaussians.means[0, 0] = 1e300
    with pytest.raises(ValueError, match="1 in means"):
        write_ply(gaussians, path)
    assert not path.exists()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.ply").mkdir()
    for place in ("absent/splat.ply", "file/splat.ply", "folder.ply"):
        with pytest.raises(OSError, match=rf"{place} cannot be written \(.*\); choose a folder") as error:
            write_ply(make_gaussians(), tmp_path / place)
        one_sentence(error)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.ply"]


def test_a_full_disk_leaves_the_file_of_before(path):
    write_ply(make_gaussians(seed=1), path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="splat.ply cannot be written") as error:
            write_ply(make_gaussians(n=1000), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_sentence(error)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1
