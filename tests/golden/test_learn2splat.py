"""Learn2Splat against what its original code computed, and against a small fixture of our own, which is always here."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.golden import check_learn2splat as check

ORIGINAL = Path(__file__).resolve().parents[3] / "shared" / "golden" / "learn2splat_a.pt"
TINY = Path(__file__).with_name("data") / "learn2splat_tiny.safetensors"


@pytest.fixture(params=[ORIGINAL, TINY], ids=["original", "tiny"])
def fixture(request):
    if not request.param.exists() and request.param != TINY:
        pytest.skip(f"{request.param} is absent")
    return request.param


def test_every_quantity_of_the_fixture(fixture, capsys):
    replay = check.replay_all(fixture)
    status = check.report(replay)
    assert status == 0, capsys.readouterr().out
    assert not replay.absent and set(replay.tensors) == replay.read
    compared = {comparison.name for comparison in replay.comparisons}
    results = {name for name in replay.tensors if name.split("/")[0] not in ("state_dict", "init")}
    inputs = {"grad_raw", "R0", "R1", "R2", "features", "xyz", "rgb", "gt", "pred"}
    inputs |= {"deltas", "gradients", "norm_gradients", "renders"}
    assert {name for name in results if name.split("/")[-1] not in inputs} == compared


def test_a_wrong_value_an_absent_part_and_an_unknown_key_show(fixture, tmp_path, capsys):
    golden = check.read(fixture).tensors
    part = {name: value for name, value in golden.items() if name.startswith(("state_dict/", "init/", "step"))}
    path = tmp_path / "part.pt"
    torch.save(part | {"step9/odd": torch.zeros(1)}, path)
    assert check.report(check.replay_all(path)) == 0
    printed = capsys.readouterr().out
    assert "absent: fast/*" in printed and "unknown key: step9/odd" in printed
    part["step1/delta"] = part["step1/delta"].clone()
    part["step1/delta"][5, 7] += 1e-5
    torch.save(part, path)
    assert check.report(check.replay_all(path)) == 1
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL step1/delta")]


def test_fixtures_of_other_sizes_are_read(tmp_path):
    """A fixture of another shape, written by the rule itself."""
    torch.manual_seed(0)
    shape = check.Learn2SplatNetworkShape(38, 12, 4, 20, 1, 7, 10, None)
    network = check.Learn2SplatNetwork(shape)
    scales = torch.rand(30, 3) + 0.1
    parts = {
        "init/means": torch.randn(30, 3),
        "init/scales": scales,
        "init/opacities": torch.rand(30) * 0.9 + 0.05,
        "init/quats": torch.randn(30, 4),
        "init/sh": torch.randn(30, 3, 9) * 0.2,
        "init/state": torch.randn(30, 12),
        "step0/knn_idx": torch.zeros(25, 3, dtype=torch.int64),
    } | {f"state_dict/{name}": tensor for name, tensor in network.state_dict().items()}
    for t in range(2):
        parts[f"step{t}/grad_raw"] = torch.randn(30, 38) * (torch.arange(30) % 6 != t)[:, None]

    def observe(t, proposal, seen, gaussians):
        parts[f"step{t}/knn_idx"] = seen["knn_idx"]
        parts[f"step{t}/delta"] = proposal.step
        parts[f"step{t}/sh_after"] = gaussians.sh.mT

    replay = check.Replay(dict(parts))
    with torch.no_grad():
        check.run(replay, check.make_rule(replay), observe)
    torch.save({name: tensor.detach().clone() for name, tensor in parts.items()}, tmp_path / "other.pt")
    replay = check.replay_all(tmp_path / "other.pt")
    assert check.report(replay) == 0 and len(replay.comparisons) == 6


def test_bfloat16_stays_close(fixture):
    replay = check.read(fixture)
    rule = check.make_rule(replay)
    half = check.Learn2SplatRule(rule.network, replace(rule.config, precision="bfloat16"))

    def observe(t, proposal, _, gaussians):
        assert proposal.state["latent"].dtype == torch.bfloat16
        for name, found in (("delta", proposal.step), ("state_after", proposal.state["latent"].float())):
            expected = replay[f"step{t}/{name}"]
            error = float((found - expected).norm() / expected.norm())
            assert 1e-4 < error < 0.03, f"{name} of step {t} is off by {error:.2%}"

    with torch.no_grad():
        check.run(replay, half, observe)
