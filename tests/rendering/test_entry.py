"""The public functions: choice of a backend, and what they refuse."""

import subprocess
import sys

import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import RasterSettings, cpu, linearize, reference, render, render_jvp
from l2o_splat.views import PinholeCameras
from tests.rendering.scenes import random_scene


def test_backend_is_chosen_by_dtype(monkeypatch):
    used = []
    for name, module in (("cpu", cpu), ("reference", reference)):
        original = module.render
        monkeypatch.setattr(
            module, "render", lambda *a, name=name, original=original: used.append(name) or original(*a)
        )
    gaussians, cameras = random_scene(5)
    render(gaussians, cameras)
    render(gaussians.to(torch.float64), cameras.to(torch.float64))
    assert used == ["cpu", "reference"]
    assert isinstance(linearize(gaussians, cameras), cpu.CpuLinearization)


def test_without_numba():
    """The twin takes over, with a warning."""
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "import warnings; warnings.simplefilter('error')\n"
        "from tests.rendering.scenes import random_scene\n"
        "from l2o_splat.rendering import render\n"
        "try:\n"
        "    render(*random_scene(3))\n"
        "except UserWarning as warning:\n"
        "    assert 'numba cannot be imported' in str(warning)\n"
        "    print('warned')\n"
        "warnings.simplefilter('ignore')\n"
        "print(render(*random_scene(3)).rgb.shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["warned", "torch.Size([2, 45, 60, 3])"], done.stderr


def test_import_is_light():
    program = "import sys, l2o_splat.rendering; print('numba' in sys.modules, 'gsplat' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_refusals():
    gaussians, cameras = random_scene(5)
    with pytest.raises(ValueError, match="viewmats is torch.float64 on cpu, but the means are torch.float32"):
        render(gaussians, cameras.to(torch.float64))
    with pytest.raises(ValueError, match="the cpu backend needs float32"):
        render(gaussians.to(torch.float64), cameras.to(torch.float64), backend="cpu")
    with pytest.raises(ValueError, match="the gsplat backend needs float32 on CUDA"):
        render(gaussians, cameras, backend="gsplat")
    with pytest.raises(ValueError, match="The backend is 'fast'; 'gsplat', 'cpu', 'reference' or None"):
        render(gaussians, cameras, backend="fast")
    with pytest.raises(ValueError, match="gsplat backend has no Jacobian products"):
        render_jvp(gaussians, gaussians, cameras, backend="gsplat")
    with pytest.raises(ValueError, match="sh_degree is 5"):
        RasterSettings(sh_degree=5)
    much = Gaussians(**{**dict(gaussians.items()), "features_rest": torch.zeros(5, 35, 3)})
    for backend in ("cpu", "reference"):
        with pytest.raises(ValueError, match="The Gaussians hold SH degree 5; set sh_degree to 4 or less"):
            render(much, cameras, backend=backend)


def test_gradients_of_intrinsics():
    """The kernels refuse what they cannot give; without gradients they draw."""
    gaussians, cameras = random_scene(5)
    Ks = cameras.Ks.clone().requires_grad_()
    moving = PinholeCameras(cameras.viewmats, Ks, width=cameras.width, height=cameras.height)
    with pytest.raises(ValueError, match=r"cameras.Ks require a gradient, which the cpu backend does not give"):
        render(gaussians, moving)
    with torch.no_grad():
        assert torch.equal(render(gaussians, moving).rgb, render(gaussians, cameras).rgb)
    render(gaussians, moving, backend="reference").rgb.sum().backward()
    assert Ks.grad.abs().sum() > 0
