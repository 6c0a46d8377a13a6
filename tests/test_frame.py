"""A scene is the same scene in every frame, and a rule does not notice in which one it is stored."""

import math

import pytest
import torch

from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.rule import Feedback
from l2o_splat.rendering import render
from l2o_splat.rotations import conjugate, harmonics_rotation, quaternion_product, quaternions_of
from l2o_splat.scene import SceneStart
from l2o_splat.views import PinholeCameras, Views
from tests.resplat_networks import context

UNTURNED = Frame(None, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 0.25)
SKEW = torch.tensor([[0.0, -0.7, 0.2], [0.7, 0.0, -1.1], [-0.2, 1.1, 0.0]], dtype=torch.float64)
TURNED = Frame(torch.linalg.matrix_exp(SKEW), torch.tensor([0.3, 0.1, -0.6], dtype=torch.float64), 2.5)


def rows(seed: int = 0, n: int = 10) -> Gaussians:
    return Gaussians.unpack(torch.randn(n, 59, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def scene(n: int = 40) -> Gaussians:
    """Something to render, in front of the cameras of ``context()``."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    means = normal(n, 3) * 0.6 + torch.tensor([0.0, 0.0, 3.0])
    features = normal(n, 3) * 0.5, normal(n, 15, 3) * 0.3
    return Gaussians(means, normal(n, 3) * 0.3 - 1.5, normal(n, 4), normal(n, 1), *features)


def energy(gaussians: Gaussians) -> torch.Tensor:
    """Some function of a scene in local units."""
    return (gaussians.pack() * torch.linspace(-1, 1, 59, dtype=torch.float64)).sin().sum()


def test_a_frame_without_rotation_moves_and_scales_alone():
    framed = UNTURNED.to_local(rows())
    torch.testing.assert_close(framed.means, 0.25 * (rows().means - torch.tensor([1.0, -2.0, 0.5])))
    torch.testing.assert_close(framed.scales.exp(), 0.25 * rows().scales.exp())
    for name in ("quats", "opacities", "features_dc", "features_rest"):
        assert torch.equal(getattr(framed, name), getattr(rows(), name))


@pytest.mark.parametrize("frame", [UNTURNED, TURNED], ids=["unturned", "turned"])
def test_there_and_back_and_the_inverse(frame):
    local = frame.to_local(rows())
    torch.testing.assert_close(frame.to_world(local).pack(), rows().pack())
    points = rows().means
    torch.testing.assert_close(frame.points_to_local(points), local.means)
    torch.testing.assert_close(frame.points_to_world(local.means), points)
    inverse = frame.inverse
    torch.testing.assert_close(inverse.points_to_local(local.means), points)
    torch.testing.assert_close(inverse.inverse.points_to_local(points), local.means)
    found = inverse.to_local(local)
    # The same rotations; quaternions of either sign stand for one.
    sign = (found.quats * rows().quats).sum(dim=1, keepdim=True).sign()
    torch.testing.assert_close(sign * found.quats, rows().quats)
    for name in ("means", "scales", "features_rest"):
        torch.testing.assert_close(getattr(found, name), getattr(rows(), name))


@pytest.mark.parametrize("frame", [UNTURNED, TURNED], ids=["unturned", "turned"])
def test_gradients_and_deltas_follow_the_chain_rule(frame):
    stored = rows().map(lambda values: values.requires_grad_())
    framed = frame.to_local(stored).detach().map(lambda values: values.requires_grad_())
    energy(frame.to_local(stored)).backward()
    energy(framed).backward()
    found = frame.gradients_to_local(stored.map(lambda values: values.grad))
    torch.testing.assert_close(found.pack(), framed.map(lambda values: values.grad).pack())
    delta = rows(seed=1)
    moved = frame.to_local(stored.detach().zip_map(torch.add, frame.deltas_to_world(delta)))
    torch.testing.assert_close(moved.pack(), framed.detach().zip_map(torch.add, delta).pack())


def test_both_uses_are_the_formulas_of_before_bit_for_bit():
    """Those of the scene frame (without rotation) and of the camera frame (with it), in single precision."""
    gaussians = rows(n=500).to(torch.float32)
    centre = gaussians.means.new_tensor([1.0, -2.0, 0.5])
    local, world = UNTURNED.to_local(gaussians), UNTURNED.to_world(gaussians)
    assert torch.equal(local.means, (gaussians.means - centre) * 0.25)
    assert torch.equal(local.scales, gaussians.scales + math.log(0.25))
    assert torch.equal(world.means, gaussians.means / 0.25 + centre)
    assert torch.equal(UNTURNED.gradients_to_local(gaussians).means, gaussians.means / 0.25)
    assert torch.equal(UNTURNED.deltas_to_world(gaussians).means, gaussians.means / 0.25)
    rotation, origin, quat = TURNED.rotation.float(), TURNED.origin.float(), quaternions_of(TURNED.rotation)
    local, world = TURNED.to_local(gaussians), TURNED.to_world(gaussians)
    assert torch.equal(local.means, 2.5 * (gaussians.means - origin) @ rotation)
    assert torch.equal(world.means, gaussians.means / 2.5 @ rotation.T + origin)
    assert torch.equal(local.quats, quaternion_product(conjugate(quat).float(), gaussians.quats))
    harmonics = harmonics_rotation(TURNED.rotation, 3).float()[1:, 1:]
    assert torch.equal(world.features_rest, torch.einsum("ij,njc->nic", harmonics, gaussians.features_rest))
    assert torch.equal(TURNED.deltas_to_world(gaussians).means, gaussians.means / 2.5 @ rotation.T)


def test_a_framed_rule_takes_the_step_of_the_rule_in_local_units():
    rule = AdamRule(adam_options("own-scale", horizon=10))
    framed_rule = FramedRule(rule, UNTURNED)
    stored, trained = rows(), UNTURNED.to_local(rows())
    state, framed_state = rule.init_state(SceneStart(trained)), framed_rule.init_state(SceneStart(stored))
    for step in range(3):
        gradients = rows(seed=10 + step)
        delta, state = rule(trained, Feedback(UNTURNED.gradients_to_local(gradients), step, 0.5), state)
        trained = trained.zip_map(torch.add, delta)
        delta, framed_state = framed_rule(stored, Feedback(gradients, step, 2.0), framed_state)
        stored = stored.zip_map(torch.add, delta)
        torch.testing.assert_close(UNTURNED.to_local(stored).pack(), trained.pack())
    # Checkpoints hold this text.
    assert framed_rule.fingerprint == f"{rule.fingerprint} in SceneFrame(centre=(1.0, -2.0, 0.5), scale=0.25)"
    assert FramedRule(rule, Frame()).fingerprint.endswith("in SceneFrame(centre=(0.0, 0.0, 0.0), scale=1.0)")
    assert TURNED.describe().startswith("Frame(rotation=[[")


def test_conventions():
    centres = torch.tensor([[0.0, 0, 0], [4.0, 0, 0], [2.0, 1, 0]])
    assert Frame.from_cameras("raw", centres).is_identity and Frame().is_identity
    assert Frame.of_world(2.0).scale == 2 and not Frame.of_world(2.0).is_identity and not TURNED.is_identity
    assert Frame.from_cameras("raw", 0.5 * centres, rescaled_by=0.5).scale == 2
    framed = Frame.from_cameras("cameras", centres).points_to_local(centres)
    torch.testing.assert_close(framed.mean(dim=0), torch.zeros(3))
    assert float(framed.norm(dim=1).max()) == pytest.approx(1)
    assert Frame.from_cameras("cameras", centres[:1]).scale == 1
    with pytest.raises(ValueError, match="'fern' is unknown"):
        Frame.from_cameras("fern", centres)
    with pytest.raises(ValueError, match="finite positive scale"):
        Frame(scale=0.0)
    with pytest.raises(ValueError, match="finite origin"):
        Frame(origin=torch.tensor([0.0, float("nan"), 0.0]))


def test_the_own_camera_becomes_the_origin():
    cameras = context().cameras
    local = Frame.of_view(cameras, 2, scale=0.5).cameras_to_local(cameras)
    torch.testing.assert_close(local.viewmats[2], torch.eye(4))


def test_images_stay_the_same():
    gaussians, views = scene(), context()
    expected = render(gaussians, views.cameras).rgb
    assert expected.std() > 0.05
    for frame in (Frame.of_view(views.cameras, 0, scale=3.0), Frame.of_world(0.2), UNTURNED):
        cameras: PinholeCameras = frame.cameras_to_local(views.cameras)
        torch.testing.assert_close(render(frame.to_local(gaussians), cameras).rgb, expected, rtol=0, atol=2e-4)
        local: Views = frame.views_to_local(views)
        assert torch.equal(local.cameras.viewmats, cameras.viewmats) and local.images is views.images
