"""ReSplat against what its original code computed, and against a small fixture of our own, which is always here."""

from pathlib import Path

import pytest
import torch

from tests.golden import check_resplat as check

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
OURS = Path(__file__).with_name("data")
UPDATE_TINY = OURS / "resplat_update_tiny.pt"
ORIGINALS = sorted(GOLDEN.glob("resplat_*.pt")) or [GOLDEN / "resplat_misc.pt"]


@pytest.mark.parametrize("fixture", [*ORIGINALS, UPDATE_TINY], ids=lambda path: path.stem)
def test_every_quantity_of_the_fixture(fixture, capsys):
    if not fixture.exists() and fixture != UPDATE_TINY:
        pytest.skip(f"{fixture} is absent")
    status = check.replay(fixture).print()
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("misc", "cov"),
        ("knn_blocks", "block_out"),
        ("update_step", "final_state"),
        ("misc", "fps_order8"),
        ("update_tiny", "final_state"),
    ],
)
def test_a_wrong_value_shows(name, key, tmp_path, capsys):
    path = (OURS if name == "update_tiny" else GOLDEN) / f"resplat_{name}.pt"
    if not path.exists() and path != UPDATE_TINY:
        pytest.skip(f"{path} is absent")
    fixture = torch.load(path, weights_only=True)
    fixture[key] = fixture[key].clone()
    fixture[key][3] += torch.tensor(1e-3).to(fixture[key].dtype) if fixture[key].is_floating_point() else 1
    torch.save(fixture, tmp_path / "wrong.pt")
    assert check.replay(tmp_path / "wrong.pt").print() == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith(f"FAIL {key}")]


def test_an_option_that_is_not_built_shows(tmp_path, capsys):
    fixture = torch.load(UPDATE_TINY, weights_only=True)
    fixture["config"]["gaussian_adapter.exp_scale"] = True
    torch.save(fixture, tmp_path / "other.pt")
    assert check.replay(tmp_path / "other.pt").print() == 1
    assert "FAIL option gaussian_adapter.exp_scale" in capsys.readouterr().out


def test_other_files_are_refused(tmp_path):
    torch.save({"some": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(SystemExit, match="no ReSplat fixture"):
        check.replay(tmp_path / "other.pt")
