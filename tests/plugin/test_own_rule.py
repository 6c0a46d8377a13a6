"""The example of docs/architecture.md: a rule that another package registers works everywhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from l2o_splat.bench.results import read_results
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.learned_optimizer import LearnedOptimizer, as_splats
from l2o_splat.optim.registry import ENTRY_POINTS, rule_entry, rules
from tests.optim.rules import backward, make_parameters
from tests.plugin.captures import last_checkpoint, method_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder for ``sys.path`` with the page's module, installed as its own package."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (registration,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    group, line = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\n(.+)\n', registration).groups()
    assert group == ENTRY_POINTS
    folder = tmp_path_factory.mktemp("package")
    (folder / "sign_momentum.py").write_text(code, encoding="utf-8")
    info = folder / "sign_momentum-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sign-momentum\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n", encoding="utf-8")
    return folder


@pytest.fixture
def installed(package, monkeypatch):
    """The package found in this process."""
    monkeypatch.syspath_prepend(str(package))
    rules.cache_clear()
    yield
    rules.cache_clear()
    sys.modules.pop("sign_momentum", None)


def test_it_drives_a_joint_optimizer_and_resumes(installed):
    rule = rule_entry("sign-momentum").build(None)
    whole = make_parameters()
    optimizer = JointOptimizer(whole, rule)
    for step in range(4):
        backward(whole, seed=step)
        before = whole["opacities"].detach().clone()
        optimizer.step()
        assert ((whole["opacities"].detach() - before).abs() - 0.05).abs().max() < 1e-6
    halves = make_parameters()
    optimizer = JointOptimizer(halves, rule)
    for step in range(4):
        if step == 2:
            resumed = JointOptimizer(halves, rule)
            resumed.load_state_dict(optimizer.state_dict())
            optimizer = resumed
        backward(halves, seed=step)
        optimizer.step()
    assert all(torch.equal(halves[name], whole[name]) for name in whole)


def test_it_is_a_torch_optimizer_for_loops_of_ones_own(installed):
    gaussians = JointOptimizer(make_parameters(), rule_entry("sign-momentum").build(None)).gaussians
    splats = {name: torch.nn.Parameter(value.clone()) for name, value in as_splats(gaussians).items()}
    optimizer = LearnedOptimizer(splats, rule="sign-momentum")
    for value in splats.values():
        value.grad = torch.ones_like(value)
    optimizer.step()
    torch.testing.assert_close(splats["sh0"].detach(), gaussians.features_dc[:, None] - 0.02)
    assert optimizer.card is None


def test_the_rule_tests_notice_that_it_has_no_case(installed):
    from tests.optim import rules as cases

    with pytest.raises(AssertionError, match="sign-momentum.*add a case"):
        cases.all_cases()


RUN_SCRIPTS = """
import json, runpy, sys
import pytest
from tests.bench.in_process import bench_in_this_process

bench_in_this_process(pytest.MonkeyPatch())
for command in json.loads(sys.argv[1]):
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
"""


def test_ns_train_and_the_benchmark_know_it(package, tiny_capture, tmp_path):
    """In one fresh process, since the options of nerfstudio's methods are made when it is imported."""
    paths = [str(package), str(PAGE.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    rule = ["--optimizers.gaussians.optimizer.rule", "sign-momentum"]
    train = ["ns-train", "l2o-adam", *rule, "--max-num-iterations", "3", "--vis", "tensorboard", "--timestamp", "run"]
    train += ["--experiment-name", "capture", "--output-dir", "out", "--data", str(tiny_capture)]
    bench = ["l2o", "bench", "--methods", f"mine=l2o-adam {' '.join(rule)}", "--data", str(tiny_capture)]
    bench += ["--steps", "2", "--out", "bench"]
    commands = [[str(Path(sys.executable).with_name(name)), *words] for name, *words in (train, bench)]
    program = [sys.executable, "-c", RUN_SCRIPTS, json.dumps(commands)]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    config = method_config(tiny_capture, tmp_path / "out")
    saved = torch.load(last_checkpoint(config), weights_only=True)["optimizers"]["gaussians"]
    assert saved["param_groups"][0]["rule"].startswith("sign-momentum 0.9")
    assert {"average.means", "average.features_rest"} <= saved["state"][0]["per_gaussian"].keys()
    (run,) = read_results(tmp_path / "bench").of("capture", "mine")
    assert (run.status, run.steps) == ("ok", 2)
