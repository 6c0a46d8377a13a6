"""LearnedOptimizer in a loop that knows gsplat's tensors and torch optimizers only."""

import copy
import io
import logging
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter, ParameterDict

from l2o_splat import LearnedOptimizer
from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.optim.framed import FramedRule
from l2o_splat.optim.joint_optimizer import JointOptimizer, RuleMismatchError
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.optim.learned_optimizer import SPLATS, as_gaussians, as_splats
from l2o_splat.schedule.controller import NAMES, Controller
from l2o_splat.weights import Weights, WeightsCard, WeightsError, load_weights, save_weights

CENTRES = torch.tensor([[0.0, 0.0, 4.0], [0.0, 0.0, 0.0], [2.0, 0.0, 2.0], [-2.0, 0.0, 2.0]])
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "library.md"


def save(path, card: WeightsCard, seed: int = 0) -> str:
    """Small weights on disk whose steps have a length that shows."""
    torch.manual_seed(seed)
    network = Learn2SplatNetwork(Learn2SplatNetworkShape(59, 24, 8, 40, 2, 11, 20, None))
    with torch.no_grad():
        network.delta_head[2].bias[-1] = 0.1
    save_weights(path, Weights(network.state_dict(), card))
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "small", WeightsCard("learn2splat", {}))


def make_splats(n: int = 30, seed: int = 0) -> ParameterDict:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
    return ParameterDict({k: Parameter(torch.randn(n, *s, generator=generator)) for k, s in shapes.items()})


def backward(splats, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    loss = sum((v - torch.randn(v.shape[1:], generator=generator)).square().mean() for v in splats.values())
    loss.backward()
    return loss


def train(splats, optimizer, steps) -> None:
    for step in steps:
        optimizer.zero_grad()
        backward(splats, seed=step)
        optimizer.step()


def assert_equal(a, b) -> None:
    for name in SPLATS:
        assert torch.equal(a[name], b[name]), name


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


@pytest.fixture
def one_thread():
    """Threads of torch that spin beside those of the renderer take its cores where there are few."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def test_the_documented_example_trains_and_prunes(one_thread):
    example, freeze, warm_up, prune, follow = blocks()[:5]
    names = {}
    exec(compile(example, str(DOCUMENT), "exec"), names)
    assert names["losses"][-1] < 0.7 * names["losses"][0]
    with torch.no_grad():
        names["splats"]["opacities"][::3] = -9
    n = len(names["splats"]["means"])
    exec(compile(freeze, str(DOCUMENT), "exec"), names)
    exec(compile(warm_up, str(DOCUMENT), "exec"), names)
    assert names["optimizer"].param_groups[1]["lr"] == 0.05
    exec(compile(prune, str(DOCUMENT), "exec"), names)
    assert len(names["splats"]["means"]) <= n - n // 3
    exec(compile(follow, str(DOCUMENT), "exec"), names)
    names["photometric_loss"](names["draw"](names["splats"]), names["photos"]).backward()
    names["optimizer"].step()


def test_importing_the_package_loads_no_torch():
    code = "import sys, l2o_splat; assert 'torch' not in sys.modules; print(l2o_splat.LearnedOptimizer.__name__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "LearnedOptimizer", result.stderr


def test_views_of_splats_share_memory_and_come_back():
    splats = make_splats()
    gaussians = as_gaussians(splats)
    with torch.no_grad():
        gaussians.opacities[4, 0], gaussians.features_dc[5, 2] = 7, 8
    assert splats["opacities"][4] == 7 and splats["sh0"][5, 0, 2] == 8
    assert_equal(as_splats(gaussians), splats)


@pytest.mark.parametrize("convention", ["raw", "cameras"])
def test_it_equals_the_joint_optimizer_on_the_same_scene(tmp_path, convention):
    path = save(tmp_path / "w", WeightsCard("learn2splat", {}, scene_frame=convention))
    splats, parameters = make_splats(), {k: Parameter(v.clone()) for k, v in as_gaussians(make_splats()).items()}
    optimizer = LearnedOptimizer(splats, path, camera_centres=CENTRES, rescaled_by=4.0)
    frame = Frame(scale=0.25) if convention == "raw" else Frame(None, torch.tensor([0.0, 0.0, 2.0]), 0.5)
    joint = JointOptimizer(parameters, FramedRule(Learn2SplatRule.from_weights(load_weights(path)), frame))
    before = as_gaussians(make_splats()).pack()
    for step in range(3):
        optimizer.zero_grad()
        backward(splats, step)
        for name, parameter in parameters.items():
            parameter.grad = getattr(as_gaussians({k: v.grad for k, v in splats.items()}), name).clone()
        optimizer.step()
        joint.step()
    assert torch.equal(as_gaussians(splats).pack(), Gaussians.from_mapping(parameters).pack())
    assert (as_gaussians(splats).pack() != before).any(dim=0).all()
    assert optimizer.inner_step == 3


def test_identity_frame_is_the_rule_itself(weights):
    rule = Learn2SplatRule.from_weights(load_weights(weights))
    for framed in (rule, FramedRule(rule, Frame())):
        parameters = {k: Parameter(v.clone()) for k, v in as_gaussians(make_splats()).items()}
        backward(parameters, 0)
        JointOptimizer(parameters, framed).step()
        splats = make_splats()
        for name, value in as_splats(Gaussians.from_mapping({k: v.grad for k, v in parameters.items()})).items():
            splats[name].grad = value
        LearnedOptimizer(splats, weights).step()
        assert torch.equal(as_gaussians(splats).pack(), Gaussians.from_mapping(parameters).pack())


@pytest.mark.parametrize("options", [{}, {"active_only": False, "knn_refresh_interval": 7}])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(weights, options):
    whole = make_splats()
    train(whole, LearnedOptimizer(whole, weights, **options), range(12))
    first = make_splats()
    optimizer = LearnedOptimizer(first, weights, **options)
    train(first, optimizer, range(5))
    file = io.BytesIO()
    torch.save({"splats": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = make_splats(n=4, seed=9)
    resumed = LearnedOptimizer(second, weights, **options)
    for name, value in saved["splats"].items():
        second[name].data = value  # As gsplat's trainer loads checkpoints.
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.inner_step == 5
    train(second, resumed, range(5, 12))
    assert_equal(second, whole)


def test_a_state_of_other_weights_or_options_is_refused(weights, tmp_path):
    saved = LearnedOptimizer(make_splats(), weights).state_dict()
    other = save(tmp_path / "other", WeightsCard("learn2splat", {}), seed=1)
    for optimizer in (LearnedOptimizer(make_splats(), other), LearnedOptimizer(make_splats(), weights, seed=5)):
        with pytest.raises(RuleMismatchError, match="was trained with rule"):
            optimizer.load_state_dict(saved)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_many_rows_are_shared_among_threads_and_give_the_same(weights, monkeypatch, two_threads, precision):
    whole, portions = make_splats(200), make_splats(200)
    train(whole, LearnedOptimizer(whole, weights, precision=precision), range(2))
    monkeypatch.setattr("l2o_splat.nets.point_transformer.ROWS_ON_CPU", 16)
    train(portions, LearnedOptimizer(portions, weights, precision=precision), range(2))
    for name in SPLATS:
        torch.testing.assert_close(portions[name], whole[name], rtol=1e-4, atol=1e-5)
    assert torch.get_num_threads() == 2 and torch.is_grad_enabled()


def test_it_is_a_torch_optimizer(weights):
    splats = make_splats()
    optimizer = LearnedOptimizer(splats, weights)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert [group["name"] for group in optimizer.param_groups] == list(SPLATS)
    assert all(group["params"][0] is splats[group["name"]] for group in optimizer.param_groups)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(optimizer.inner_step))
    loss = optimizer.step(lambda: backward(splats, 0))
    assert called == [1] and loss > 0
    held = splats["opacities"].grad
    assert held.shape == (30,) and held.any()
    optimizer.zero_grad()
    assert all(value.grad is None for value in splats.values())
    before = copy.deepcopy(splats)
    optimizer.step()
    assert optimizer.inner_step == 1, "without gradients there is no step"
    assert_equal(splats, before)


def test_a_grad_scaler_and_clipping_see_the_callers_parameters(weights):
    plain, scaled = make_splats(), make_splats()
    optimizer, scaler = LearnedOptimizer(scaled, weights), torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(sum(v.square().mean() for v in scaled.values())).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(scaled.values(), 1e3)
    scaler.step(optimizer)
    sum(v.square().mean() for v in plain.values()).backward()
    LearnedOptimizer(plain, weights).step()
    torch.testing.assert_close(as_gaussians(scaled).pack(), as_gaussians(plain).pack())
    assert optimizer.inner_step == 1


def test_a_non_finite_gradient_refuses_the_step(weights, caplog):
    splats = make_splats()
    optimizer = LearnedOptimizer(splats, weights)
    backward(splats, 0)
    splats["sh0"].grad[3, 0, 1] = torch.nan
    before = copy.deepcopy(splats)
    with caplog.at_level(logging.WARNING):
        optimizer.step()
    assert "1 in features_dc" in caplog.text and optimizer.inner_step == 0
    assert_equal(splats, before)


def test_an_added_splat_moves_like_its_parent_with_the_weights_of_the_package():
    """Log-scales are limited around the median of the scene's start, which an added row must know too."""
    splats = make_splats()
    with torch.no_grad():
        splats["scales"] -= 8
    optimizer = LearnedOptimizer(splats)
    train(splats, optimizer, range(5))
    source, fresh = torch.cat([torch.arange(30), torch.tensor([7])]), torch.arange(31) == 30
    optimizer.resize({name: value.detach()[source] for name, value in splats.items()}, source, fresh)
    before = splats["scales"].detach().clone()
    train(splats, optimizer, [5])
    moved = (splats["scales"].detach() - before).abs()
    assert 0 < moved[7].max() < 0.3 and 0 < moved[30].max() < 0.3


def test_resizing_moves_rows_and_state_together(weights):
    splats, kept = make_splats(), make_splats()
    optimizer, reference = LearnedOptimizer(splats, weights), LearnedOptimizer(kept, weights)
    for s, o in ((splats, optimizer), (kept, reference)):
        train(s, o, range(3))
    order = torch.arange(29, -1, -1)
    optimizer.resize({k: v.detach()[order] for k, v in splats.items()}, order, torch.zeros(30, dtype=torch.bool))
    assert all(group["params"][0] is splats[group["name"]] for group in optimizer.param_groups)
    assert all(splats[name].is_leaf and splats[name].requires_grad for name in SPLATS)
    assert splats["opacities"].shape == (30,) and splats["sh0"].shape == (30, 1, 3)
    for s, o in ((splats, optimizer), (kept, reference)):
        train(s, o, range(3, 6))
    for name in SPLATS:
        torch.testing.assert_close(splats[name], kept[name][order], rtol=1e-3, atol=1e-5)

    source = torch.tensor([4, 4, 0, 1, 2])
    fresh = torch.tensor([False, True, False, False, False])
    values = {k: v.detach()[source] + 0.1 for k, v in splats.items()}
    optimizer.resize(values, source, fresh)
    assert_equal(splats, values)
    train(splats, optimizer, range(6, 8))
    assert (splats["means"] != values["means"]).any(dim=1).all()


def test_changes_behind_the_optimizers_back_are_noticed(weights):
    splats = make_splats()
    optimizer = LearnedOptimizer(splats, weights)
    train(splats, optimizer, range(1))
    for value in splats.values():
        value.data, value.grad = value.data[:20], None
    backward(splats, 1)
    with pytest.raises(ValueError, match=r"has 20 rows and the optimizer's state 30; .*resize\(\)"):
        optimizer.step()
    splats = make_splats()
    optimizer = LearnedOptimizer(splats, weights)
    splats["quats"] = Parameter(splats["quats"].detach().clone())
    with pytest.raises(ValueError, match="'quats'.* is another Parameter"):
        optimizer.step()


def without(name):
    return {k: v for k, v in make_splats().items() if k != name}


@pytest.mark.parametrize(
    ("splats", "error", "message"),
    [
        (without("shN"), KeyError, r"lack \['shN'\]"),
        (dict(as_gaussians(make_splats()).items()), KeyError, r"lack \['sh0', 'shN'\]"),
        (
            without("opacities") | {"opacities": Parameter(torch.zeros(30, 1))},
            ValueError,
            r"\[30, 1\]; \[n\] \(logit\)",
        ),
        (without("sh0") | {"sh0": Parameter(torch.zeros(30, 3))}, ValueError, r"'sh0'.*\[30, 3\]; \[n, 1, 3\]"),
        (without("quats") | {"quats": Parameter(torch.zeros(29, 4))}, ValueError, r"'quats'.*\[29, 4\]"),
        (without("shN") | {"shN": Parameter(torch.zeros(30, 5, 3))}, ValueError, "5 bands"),
        (without("means") | {"means": Parameter(torch.zeros(30, 3).double())}, ValueError, "'means'.*torch.float64"),
        (without("") | {"features": Parameter(torch.zeros(30, 8))}, ValueError, r"hold \['features'\] too"),
    ],
)
def test_wrong_splats_are_named(weights, splats, error, message):
    with pytest.raises(error, match=message):
        LearnedOptimizer(splats, weights)


def test_wrong_weights_options_and_gradients_are_named(weights, tmp_path):
    with pytest.raises(WeightsError, match="nor a known name"):
        LearnedOptimizer(make_splats(), "no-such-weights")
    card = WeightsCard("resplat", {})
    save_weights(tmp_path / "r", Weights({"a": torch.zeros(1)}, card))
    with pytest.raises(WeightsError, match="are of resplat; learn2splat or gain or controller weights are needed"):
        LearnedOptimizer(make_splats(), str(tmp_path / "r"))
    save_weights(tmp_path / "k", Controller.neutral().to_weights(WeightsCard("controller", {"numbers": list(NAMES)})))
    with pytest.raises(WeightsError, match="are of a controller, which decides on the views"):
        LearnedOptimizer(make_splats(), str(tmp_path / "k"))
    with pytest.raises(ValueError, match=r"no options \['lr'\]"):
        LearnedOptimizer(make_splats(), weights, lr=0.1)
    scaled = save(tmp_path / "c", replace(card, system="learn2splat", scene_frame="cameras"))
    with pytest.raises(ValueError, match="give camera_centres"):
        LearnedOptimizer(make_splats(), scaled)
    splats = make_splats()
    optimizer = LearnedOptimizer(splats, weights)
    splats["means"].grad = torch.ones(30, 3).to_sparse()
    with pytest.raises(ValueError, match="sparse_grad=False"):
        optimizer.step()
