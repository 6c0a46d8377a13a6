"""The source ``dense`` of ``--pipeline.initialization.source`` inside nerfstudio."""

import pytest

from l2o_splat.scenes.capture import write_capture
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from tests.plugin.captures import method_config, train, write_tiny_capture
from tests.plugin.console import refuse


def dense_config(capture, output, **options):
    config = method_config(capture, output, "l2o-adam-tuned", steps=2)
    config.pipeline.initialization.source = "dense"
    for name, value in options.items():
        setattr(config.pipeline.initialization, name, value)
    return config


@pytest.fixture(scope="module")
def textured_capture(tmp_path_factory):
    """A capture on whose depths views agree."""
    options = ProceduralOptions(
        num_views=9, width=96, height=80, num_points=800, trajectory="walk", environment="room", random_world=False
    )
    folder = tmp_path_factory.mktemp("textured") / "capture"
    write_capture(folder, generate(1, options))
    return folder


def keep_points(capture, count):
    """Leave so many points in the file."""
    lines = (capture / "points.ply").read_text().replace("vertex 60", f"vertex {count}").splitlines()
    end = lines.index("end_header") + 1
    (capture / "points.ply").write_text("\n".join(lines[: end + count]) + "\n")


def test_a_dense_start_is_trained_and_holds_no_more_than_asked_for(textured_capture, tmp_path):
    trainer = train(dense_config(textured_capture, tmp_path / "out", num_points=200))
    assert 100 < len(trainer.pipeline.model.gaussians) <= 200


def test_padding_makes_the_number_exact(textured_capture, tmp_path):
    config = dense_config(textured_capture, tmp_path / "out", num_points=2000, pad=True)
    gaussians = train(config).pipeline.model.gaussians
    assert len(gaussians) == 2000
    invisible = gaussians.opacities.sigmoid() < 1e-6
    assert 0 < invisible.sum() < 2000


def test_a_capture_without_points_is_refused(tmp_path):
    capture = write_tiny_capture(tmp_path / "bare", points=False)
    refuse(dense_config(capture, tmp_path / "out"), "no structure-from-motion points.*source dense")


def test_too_few_points_are_refused_by_the_source_dense(tiny_capture, tmp_path):
    keep_points(tiny_capture, 5)
    refuse(dense_config(tiny_capture, tmp_path / "out"), "No view sees enough of the 5 points")
