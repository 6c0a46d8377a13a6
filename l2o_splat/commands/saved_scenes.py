"""``l2o eval`` and ``l2o export``: nerfstudio's commands, after a check that they will find what they need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass
class Eval:
    """Measure the held-out quality of a run, as ns-eval does, after checking its files."""

    load_config: Path
    """The config.yml of the run."""
    output_path: Path = Path("metrics.json")
    """JSON file for the measures."""
    render_output_path: Path | None = None
    """Folder for images of photographs beside renders; None writes none."""

    def run(self) -> None:
        """Evaluate with nerfstudio's code.

        Raises:
            L2OError: If the config, the checkpoint, the capture or an output cannot be used.
        """
        from l2o_splat.plugin.config_file import config_text
        from l2o_splat.plugin.export_options import check_output
        from l2o_splat.plugin.third_party_warnings import silence_third_parties

        check_output(self.output_path, ".json")
        if self.render_output_path is not None:
            check_output(self.render_output_path)
        config_text(self.load_config)
        silence_third_parties()
        # Only now: these take ten seconds.
        from nerfstudio.scripts.eval import ComputePSNR

        from l2o_splat.plugin.saved_scenes import check_run

        check_run(self.load_config)
        ComputePSNR(self.load_config, self.output_path, self.render_output_path).main()


@dataclass
class Export:
    """Export the Gaussians of a run as a PLY, as ns-export gaussian-splat does, after checking its files."""

    load_config: Path
    """The config.yml of the run."""
    output_dir: Path = Path("exports")
    """Folder for the PLY."""
    output_filename: str = "splat.ply"
    """Name of the PLY."""
    obb_center: tuple[float, float, float] | None = None
    """Centre of a crop box, scene units; all three options make one."""
    obb_rotation: tuple[float, float, float] | None = None
    """Its roll, pitch and yaw, radians."""
    obb_scale: tuple[float, float, float] | None = None
    """Its sides, scene units."""
    ply_color_mode: Literal["sh_coeffs", "rgb"] = "sh_coeffs"
    """Spherical harmonics, as viewers of splats read them, or plain colours."""

    def run(self) -> None:
        """Export with nerfstudio's code.

        Raises:
            L2OError: If the config, the checkpoint or an output cannot be used, or nothing would be exported.
        """
        from l2o_splat.plugin.config_file import config_text
        from l2o_splat.plugin.export_options import Crop, check_output
        from l2o_splat.plugin.third_party_warnings import silence_third_parties

        crop = Crop.from_options(self.obb_center, self.obb_rotation, self.obb_scale)
        check_output(self.output_dir)
        check_output(self.output_dir / self.output_filename, ".ply")
        config_text(self.load_config)
        silence_third_parties()
        # Only now: these take ten seconds.
        from nerfstudio.scripts.exporter import ExportGaussianSplat

        from l2o_splat.plugin.saved_scenes import check_run, check_something_is_exported

        check_something_is_exported(check_run(self.load_config)[1], crop)
        ExportGaussianSplat(
            load_config=self.load_config,
            output_dir=self.output_dir,
            output_filename=self.output_filename,
            obb_center=self.obb_center,
            obb_rotation=self.obb_rotation,
            obb_scale=self.obb_scale,
            ply_color_mode=self.ply_color_mode,
        ).main()
        print(f"Wrote {self.output_dir / self.output_filename}")
