"""The exported PLY is the scene that was evaluated, and is what our own writer makes of it."""

import torch
from nerfstudio.scripts.exporter import ExportGaussianSplat
from plyfile import PlyData

from l2o_splat.gaussians import FIELDS
from l2o_splat.metrics import psnr
from l2o_splat.plugin.photographs import pinhole_cameras
from l2o_splat.ply import read_ply, write_ply
from l2o_splat.rendering import RasterSettings, render
from tests.plugin.captures import method_config, train


def test_the_exported_ply_renders_the_eval_image(tiny_capture, tmp_path):
    config = method_config(tiny_capture, tmp_path / "out", "l2o-adam-tuned", steps=8)
    trainer = train(config)
    pipeline = trainer.pipeline
    camera, _ = pipeline.datamanager.fixed_indices_eval_dataloader[0]
    evaluated = pipeline.model.get_outputs_for_camera(camera)["rgb"]
    ExportGaussianSplat(load_config=config.get_base_dir() / "config.yml", output_dir=tmp_path / "ply").main()
    scene = read_ply(tmp_path / "ply/splat.ply")
    for name in FIELDS:
        torch.testing.assert_close(getattr(scene, name), pipeline.model.gauss_params[name].detach(), rtol=0, atol=0)
    write_ply(scene, tmp_path / "written.ply")
    exported, written = (
        PlyData.read(file)["vertex"].data for file in (tmp_path / "ply/splat.ply", tmp_path / "written.ply")
    )
    assert written.dtype == exported.dtype and written.tobytes() == exported.tobytes()
    # A default RasterSettings is what PLY viewers draw: classic, eps2d 0.3, black.
    redrawn = render(scene, pinhole_cameras(camera), RasterSettings()).rgb[0].clamp(0, 1)
    assert psnr(redrawn, evaluated) > 60
