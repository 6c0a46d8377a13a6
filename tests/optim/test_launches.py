"""How many operations a step hands to the device: on a GPU each is a launch, which costs more than its arithmetic."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from l2o_splat.gaussians import Gaussians
from l2o_splat.nets import gain_network
from l2o_splat.optim import adam, gain
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.in_place import kernels_can_use
from l2o_splat.optim.rule import Feedback, UpdateRule
from l2o_splat.scene import SceneStart
from tests.optim.gain import make_rule

N = 200
NO_LAUNCH = {
    "alias",
    "as_strided",
    "detach",
    "empty",
    "empty_like",
    "expand",
    "select",
    "slice",
    "split",
    "split_with_sizes",
}
NO_LAUNCH |= {"squeeze", "t", "transpose", "unsqueeze", "view", "_unsafe_view"}
"""Operations that change only how memory is looked at, or reserve it."""


class Launches(TorchDispatchMode):
    """Counts operations, and copies to the host among them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.waits = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function.overloadpacket.__name__ not in NO_LAUNCH
        self.waits += function.overloadpacket.__name__ == "_local_scalar_dense"
        return function(*arguments, **options or {})


@pytest.fixture(autouse=True)
def without_kernels(monkeypatch):
    for room in (adam, gain):
        monkeypatch.setattr(room, "kernels_can_use", lambda *tensors: False)
    monkeypatch.setattr(gain_network, "numba_works", lambda: False)


def own_scale() -> AdamRule:
    return AdamRule(adam_options("own-scale", 30))


def learned() -> UpdateRule:
    return make_rule(trained=True, step_decay=(60.0, 0.8), query_growth=1.0, trust_decay=5.0)


def rows(seed: int) -> Gaussians:
    return Gaussians.unpack(torch.randn(N, 59, generator=torch.Generator().manual_seed(seed))).map(torch.clone)


@torch.no_grad()
@pytest.mark.parametrize(
    ("make_rule", "step", "most"),
    [(own_scale, 2, 20), (learned, 2, 85), (learned, 3, 125)],
    ids=["Adam", "gain rule", "gain rule that queries its network"],
)
def test_a_step_hands_few_operations_to_the_device_and_waits_for_it_once(make_rule, step, most):
    rule, gaussians = make_rule(), rows(0)
    state = rule.init_state(SceneStart(gaussians))
    for earlier in range(step):
        state = rule.step_in_place(gaussians, Feedback(rows(1), earlier, 1.0), state)
    feedback = Feedback(rows(1), step, 1.0)
    with Launches() as launches:
        assert rule.step_in_place(gaussians, feedback, state) is not None
    assert launches.count <= most
    # For the check that all numbers are finite.
    assert launches.waits == 1


@torch.no_grad()
@pytest.mark.parametrize(("make_rule", "most"), [(own_scale, 45), (learned, 85)], ids=["Adam", "gain rule"])
def test_ages_of_single_gaussians_are_no_reason_to_wait(make_rule, most):
    """On the meta device, where nothing can be copied to the host, as on a GPU."""
    rule, gaussians = make_rule(), rows(0)
    state = rule.init_state(SceneStart(gaussians))
    for step in range(2):
        _, state = rule(gaussians, Feedback(rows(1), step, 1.0), state)
    state = rule.resize_state(state, torch.arange(N), torch.arange(N) < 9)
    state = type(state)(
        *({name: value.to("meta") for name, value in part.items()} for part in (state.per_gaussian, state.per_scene))
    )
    if isinstance(rule, gain.GainRule):
        rule.to("meta")
        state = state.updated(neighbours=torch.empty(N, 4, dtype=torch.int64, device="meta"))
    gaussians, feedback = gaussians.to("meta"), Feedback(rows(1).to("meta"), 2, 1.0, progress=0.3)
    with Launches() as launches:
        delta, after = rule(gaussians, feedback, state)
    assert delta.means.device.type == "meta" and all(value.device.type == "meta" for value in after.values())
    assert launches.count <= most and launches.waits == 0


@torch.no_grad()
@pytest.mark.parametrize("progress", [None, 0.4])
def test_adam_by_torch_is_adam_by_kernels_for_gaussians_of_all_ages(progress, monkeypatch):
    rule, gaussians = own_scale(), rows(0)
    state = rule.init_state(SceneStart(gaussians))
    by_kernels, begun = gaussians.map(torch.clone), rule.init_state(SceneStart(gaussians))
    for step in range(6):
        feedback = Feedback(rows(step), step, 1.0, progress=progress)
        state = rule.step_in_place(gaussians, feedback, state)
        with monkeypatch.context() as patch:
            patch.setattr(adam, "kernels_can_use", kernels_can_use)
            begun = rule.step_in_place(by_kernels, feedback, begun)
        assert torch.equal(gaussians.pack(), by_kernels.pack())
        if step in (1, 3):
            fresh = torch.arange(N) % 7 == step
            state, begun = (rule.resize_state(each, torch.arange(N), fresh) for each in (state, begun))
