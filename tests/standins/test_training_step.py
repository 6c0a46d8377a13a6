"""Training through the plugin on the CPU, with gsplat and fused-ssim stood in for, against the reference backend."""

import pytest
import torch

from l2o_splat import losses, rendering
from l2o_splat.rendering import reference, rendered_loss
from tests.plugin.captures import method_config, write_tiny_capture
from tests.rendering.scenes import relative_errors
from tests.standins.fused_ssim_package import stand_in_for_fused_ssim
from tests.standins.gsplat_package import RULES, stand_in_for_gsplat


def in_float64(render):
    """Rounding alone may turn the first steps of a rule that divides a gradient by its size."""

    def draw(gaussians, cameras, settings):
        return render(gaussians.to(torch.float64), cameras.to(torch.float64), settings).map(torch.Tensor.float)

    return draw


def moves(folder, method, rules):
    """By how much two steps move each parameter."""
    config = method_config(write_tiny_capture(folder / "capture"), folder / "out", method, steps=2)
    config.pipeline.model.image_rules = rules
    config.pipeline.model.sh_degree = 1
    config.pipeline.datamanager.views_per_step = 2
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    model = trainer.pipeline.model
    before = model.gaussians.map(lambda tensor: tensor.detach().clone())
    trainer.train()
    return model.gaussians.detach().zip_map(torch.sub, before)


@pytest.mark.parametrize(
    ("method", "version"), [("l2o-adam-tuned", "1.4.0"), ("learn2splat", "1.4.0"), ("learn2splat", "1.5.3")]
)
def test_steps_are_those_of_the_reference_backend(tmp_path, monkeypatch, method, version):
    with monkeypatch.context() as with_reference:
        for module in (rendering, rendered_loss):
            with_reference.setattr(module, "backend_for", lambda *args, **kwargs: "reference")
        with_reference.setattr(reference, "render", in_float64(reference.render))
        with_reference.setattr(losses, "_fused_view_loss", lambda: None)
        expected = moves(tmp_path / "reference", method, RULES[version])
    gsplat, fused_ssim = stand_in_for_gsplat(monkeypatch, version), stand_in_for_fused_ssim(monkeypatch)
    found = moves(tmp_path / "found", method, RULES[version])
    in_steps = [call for call in gsplat.calls if call["means"].requires_grad and len(call["viewmats"]) == 2]
    assert len(in_steps) == 2, "one rasterization draws all views of a step"
    assert len(fused_ssim.calls) >= 2
    errors = relative_errors(found, expected)
    # The Gaussians are round at first, so that the gradients of their rotations are rounding.
    del errors["quats"]
    assert max(errors.values()) < 1e-3
