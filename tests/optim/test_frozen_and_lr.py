"""Frozen tensors, ``lr`` and torch's schedulers, in both optimizers and for hand-designed and learned rules."""

import copy
import io

import pytest
import torch
from torch.nn import Parameter
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from l2o_splat import LearnedOptimizer
from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.joint_optimizer import JointOptimizer
from tests.optim.rules import all_cases, backward, make_parameters
from tests.optim.test_learned_optimizer import SPLATS, make_splats
from tests.optim.test_learned_optimizer import backward as backward_splats

CASES = ("adam", "gain", "learn2splat", "framed learn2splat", "proximal gain", "safeguarded gain")
ALL = sorted(all_cases())


def moments_of(optimizer: JointOptimizer, field: str) -> dict[str, torch.Tensor]:
    state = optimizer.rule_state
    return {
        name: state.per_gaussian[name][:, columns].clone() for name, columns, _ in optimizer.rule.moments(state, field)
    }


@pytest.mark.parametrize("field", ["means", "opacities", "features_rest"])
@pytest.mark.parametrize("name", CASES)
def test_a_tensor_that_is_frozen_later_keeps_its_values_and_its_moments(name, field):
    case, parameters = all_cases()[name], make_parameters()
    optimizer = case.optimizer(parameters)
    case.train(parameters, optimizer, range(3))
    before, moments = copy.deepcopy(parameters), moments_of(optimizer, field)
    assert moments and all(value.any() for value in moments.values())
    parameters[field].requires_grad_(False)
    for step in range(3, 6):
        backward(parameters, seed=step)
        parameters[field].grad = torch.full_like(parameters[field], torch.nan)  # Left over from before; it counts not.
        optimizer.rendered = case.rendered(optimizer.gaussians, optimizer.inner_step)
        optimizer.step()
    assert optimizer.inner_step == 6
    assert torch.equal(parameters[field], before[field])
    for key, value in moments_of(optimizer, field).items():
        assert torch.equal(value, moments[key]), key
    for other in FIELDS:
        assert other == field or not torch.equal(parameters[other], before[other])
    parameters[field].requires_grad_(True)
    case.train(parameters, optimizer, [6])
    assert not torch.equal(parameters[field], before[field])


@pytest.mark.parametrize("name", ALL)
def test_a_tensor_that_is_frozen_from_the_start_has_no_moments(name):
    case, parameters = all_cases()[name], make_parameters()
    parameters["quats"].requires_grad_(False)
    optimizer, before = case.optimizer(parameters), parameters["quats"].detach().clone()
    case.train(parameters, optimizer, range(6))
    assert torch.equal(parameters["quats"], before)
    assert not any(value.any() for value in moments_of(optimizer, "quats").values())


def test_moments_of_all_fields_are_all_moments():
    for name, prefix in (("adam", "exp_avg"), ("gain", "adam_"), ("learn2splat", "adam_")):
        case, parameters = all_cases()[name], make_parameters()
        optimizer = case.optimizer(parameters)
        case.train(parameters, optimizer, range(2))
        emptied = optimizer.rule.with_moments(optimizer.rule_state, FIELDS)
        for key, value in emptied.per_gaussian.items():
            if key.startswith(prefix) and key != "adam_t":
                assert not value.any(), key
            else:
                assert torch.equal(value, optimizer.rule_state[key]), key


def test_without_any_tensor_to_train_there_is_no_step():
    parameters = make_parameters()
    optimizer = JointOptimizer(parameters, AdamRule(adam_options("gsplat", 50)))
    backward(parameters, 0)
    parameters.requires_grad_(False)
    optimizer.step()
    assert optimizer.inner_step == 0


@pytest.mark.parametrize("name", CASES)
def test_lr_scales_the_step_of_its_field_alone(name):
    case = all_cases()[name]
    found = {}
    for lr in (1.0, 0.25, torch.tensor(0.25), 0.0):
        parameters = make_parameters()
        optimizer = case.optimizer(parameters)
        assert [group["lr"] for group in optimizer.param_groups] == [1.0] * 6
        before = copy.deepcopy(parameters)
        optimizer.param_groups[FIELDS.index("scales")]["lr"] = lr
        case.train(parameters, optimizer, [0])
        found[lr] = {field: (parameters[field] - before[field]).detach() for field in FIELDS}
        tensor = lr
    torch.testing.assert_close(found[0.25]["scales"], 0.25 * found[1.0]["scales"], rtol=1e-4, atol=1e-6)
    assert not found[0.0]["scales"].any() and found[1.0]["scales"].any()
    for field in set(FIELDS) - {"scales"}:
        assert torch.equal(found[0.25][field], found[1.0][field]), field
    assert tensor == 0.0


def test_an_lr_that_is_no_number_moves_nothing():
    parameters = make_parameters()
    optimizer, before = JointOptimizer(parameters, AdamRule(adam_options("gsplat", 50))), copy.deepcopy(parameters)
    optimizer.param_groups[0]["lr"] = float("nan")
    backward(parameters, 0)
    optimizer.step()
    assert all(torch.equal(parameters[field], before[field]) for field in FIELDS)


def make_scheduler(kind: str, optimizer):
    if kind == "warm-up":
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
    if kind == "per field":
        return LambdaLR(optimizer, [lambda step, power=power: 0.9 ** (step * power) for power in range(6)])
    return OneCycleLR(optimizer, max_lr=2.0, total_steps=12, cycle_momentum=False)


def train(splats, optimizer, scheduler, steps) -> list[float]:
    rates = []
    for step in steps:
        optimizer.zero_grad()
        backward_splats(splats, step)
        rates.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["warm-up", "per field", "one cycle"])
@pytest.mark.parametrize("rule", ["learn2splat", "adam"])
def test_schedulers_work_and_resume_bit_for_bit(kind, rule):
    whole = make_splats()
    optimizer = LearnedOptimizer(whole, rule=rule)
    rates = train(whole, optimizer, make_scheduler(kind, optimizer), range(8))
    assert len(set(rates)) > 3
    first = make_splats()
    optimizer = LearnedOptimizer(first, rule=rule)
    scheduler = make_scheduler(kind, optimizer)
    train(first, optimizer, scheduler, range(3))
    file = io.BytesIO()
    torch.save((first.state_dict(), optimizer.state_dict(), scheduler.state_dict()), file)
    file.seek(0)
    values, state, schedule = torch.load(file, weights_only=True)
    second = make_splats(seed=5)
    resumed = LearnedOptimizer(second, rule=rule)
    scheduler = make_scheduler(kind, resumed)
    second.load_state_dict(values)
    resumed.load_state_dict(state)
    scheduler.load_state_dict(schedule)
    assert train(second, resumed, scheduler, range(3, 8)) == rates[3:]
    for name in SPLATS:
        assert torch.equal(second[name], whole[name]), name


def test_a_state_of_an_earlier_version_has_an_lr_of_1():
    splats = make_splats()
    optimizer = LearnedOptimizer(splats)
    backward_splats(splats, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["lr"]
    other = LearnedOptimizer(make_splats())
    other.param_groups[2]["lr"] = 0.5
    other.load_state_dict(saved)
    assert [group["lr"] for group in other.param_groups] == [1.0] * 6
    assert "lr" not in saved["param_groups"][0]
    backward_splats(splats, 1)
    other.step()


@pytest.mark.parametrize("rule", ["learn2splat", "adam"])
def test_splats_can_be_frozen_and_stay_so_when_they_are_resized(rule):
    splats = make_splats()
    optimizer = LearnedOptimizer(splats, rule=rule)
    backward_splats(splats, 0)
    optimizer.step()
    splats["sh0"].requires_grad_(False)
    before = {name: value.detach().clone() for name, value in splats.items()}
    backward_splats(splats, 1)
    optimizer.step()
    kept = torch.arange(20)
    optimizer.resize({name: value.detach()[kept] for name, value in splats.items()}, kept, torch.zeros(20).bool())
    assert [name for name in SPLATS if not splats[name].requires_grad] == ["sh0"]
    backward_splats(splats, 2)
    optimizer.step()
    for name in SPLATS:
        assert torch.equal(splats[name], before[name][:20]) == (name == "sh0"), name


PARAMETERS = make_parameters(3)
GIVEN = {
    "groups": [{"params": [value], "lr": 0.1, "name": name} for name, value in PARAMETERS.items()],
    "tensors": list(PARAMETERS.values()),
    "generator": (value for value in PARAMETERS.values()),
    "group": {"params": list(PARAMETERS.values())},
    "missing": {name: value for name, value in PARAMETERS.items() if name != "scales"},
    "extra": dict(PARAMETERS.items()) | {"features": Parameter(torch.zeros(3, 8))},
    "shape": dict(PARAMETERS.items()) | {"quats": Parameter(torch.zeros(3, 3))},
    "rows": dict(PARAMETERS.items()) | {"scales": Parameter(torch.zeros(4, 3))},
    "no tensor": dict(PARAMETERS.items()) | {"means": [[0.0, 0.0, 0.0]]},
    "nothing": None,
}
EXPECTED = {
    "groups": "given as a list; a dict or ParameterDict",
    "tensors": "given as a list",
    "generator": "given as a generator",
    "group": r"lack \['means', .* and have \['params'\]",
    "missing": r"lack \['scales'\]",
    "extra": r"hold \['features'\] too",
    "shape": r"quats.*3, 3.*4.* needed",
    "rows": r"scales.*4, 3",
    "no tensor": "'means' is a list; a torch tensor is needed",
    "nothing": "given as a NoneType",
}


@pytest.mark.parametrize("case", GIVEN)
@pytest.mark.parametrize("kind", [JointOptimizer, LearnedOptimizer])
def test_what_is_no_scene_is_refused_in_one_sentence_without_numbers(kind, case):
    given = GIVEN[case]
    if kind is LearnedOptimizer and isinstance(given, dict) and "params" not in given:
        names = dict(zip(FIELDS, SPLATS, strict=True))
        shapes = {"opacities": lambda value: value[:, 0], "features_dc": lambda value: value[:, None]}
        given = {
            names.get(name, name): Parameter(shapes[name](value.detach())) if name in shapes else value
            for name, value in given.items()
        }
    with pytest.raises((KeyError, TypeError, ValueError), match=EXPECTED[case]) as caught:
        kind(given, AdamRule(adam_options("gsplat", 50))) if kind is JointOptimizer else kind(given)
    message = str(caught.value.args[0])
    assert "tensor(" not in message and "Parameter" not in message.replace("ParameterDict", "")
    assert "\n" not in message and len(message) < 300


@pytest.mark.parametrize("kind", [JointOptimizer, LearnedOptimizer])
def test_a_seventh_param_group_is_refused(kind):
    optimizer = kind(make_splats()) if kind is LearnedOptimizer else kind(PARAMETERS, AdamRule(adam_options("x5", 5)))
    with pytest.raises(ValueError, match="give its parameters an optimizer of their own"):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(3))]})
    assert len(optimizer.param_groups) == 6


@pytest.mark.parametrize(("name", "needs"), [("gain", "attend to 4 neighbours"), ("proximal", "no precision")])
def test_a_scene_that_the_rule_cannot_work_on_is_refused_before_any_step(name, needs):
    case, parameters = all_cases()[name], make_parameters(3)
    optimizer = JointOptimizer(parameters, case.rule)
    with pytest.raises(ValueError, match=needs):
        optimizer.check_scene()
    assert not optimizer.state
    enough = make_parameters()
    optimizer, before = case.optimizer(enough), Gaussians.from_mapping(enough).pack()
    optimizer.check_scene()
    assert optimizer.inner_step == 0 and optimizer.rule_state is None
    assert torch.equal(Gaussians.from_mapping(enough).pack(), before)
