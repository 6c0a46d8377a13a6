"""``l2o eval`` and ``l2o export``: nerfstudio's commands after a check of their files, and more ways to export."""

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
    """Export the Gaussians of a run for other programs, and as a page to look at, after checking its files.

    By default what ns-export gaussian-splat writes: a PLY in the axes of training.
    """

    load_config: Path
    """The config.yml of the run."""
    output_dir: Path = Path("exports")
    """Folder for the files."""
    output_filename: str = "splat.ply"
    """Name of the PLY; files of other formats have their own ending."""
    format: tuple[Literal["ply", "spz", "sog", "safetensors", "html"], ...] = ("ply",)
    """One or more of them: exact (ply), small (spz, sog), tensors for programs (safetensors), or a page that shows the
    scene in any browser (html)."""
    up: Literal["as-trained", "y", "y-down"] = "as-trained"
    """Which axis of the file points up: y (three.js, glTF, Unity), -y (y-down: original 3DGS, SuperSplat, most web
    viewers), or that of training, mostly z. Pages are always right side up."""
    sh_degree: int | None = None
    """Highest degree of spherical harmonics to keep; None keeps all."""
    least_opacity: float = 0.0
    """Leave out Gaussians that are less opaque, 0 to 1; those below 1/255 are never drawn and always left out."""
    seen_in: int = 0
    """Leave out Gaussians whose centre lies in fewer training photographs than this; 2 removes most floaters."""
    obb_center: tuple[float, float, float] | None = None
    """Centre of a crop box, scene units; all three options make one."""
    obb_rotation: tuple[float, float, float] | None = None
    """Its roll, pitch and yaw, radians."""
    obb_scale: tuple[float, float, float] | None = None
    """Its sides, scene units."""
    ply_color_mode: Literal["sh_coeffs", "rgb"] = "sh_coeffs"
    """Spherical harmonics, as viewers of splats read them, or plain colours, by nerfstudio's own code."""

    def run(self) -> None:
        """Export the scene.

        Raises:
            L2OError: If the config, the checkpoint, the capture or an output cannot be used, or nothing would be
                exported.
        """
        from l2o_splat.plugin.config_file import config_text
        from l2o_splat.plugin.export_options import Crop, Selection, check_formats, check_output, check_plain_colours
        from l2o_splat.plugin.third_party_warnings import silence_third_parties

        check_formats(self.format)
        crop = Crop.from_options(self.obb_center, self.obb_rotation, self.obb_scale)
        selection = Selection(crop, self.least_opacity, self.seen_in, self.sh_degree)
        plain = self.format == ("ply",) and self.up == "as-trained" and not selection.beyond_nerfstudio
        if self.ply_color_mode == "rgb":
            check_plain_colours(plain)
        check_output(self.output_dir)
        first = self.output_dir / self.output_filename
        check_output(first, ".ply")
        paths = [first.with_suffix(f".{suffix}") for suffix in dict.fromkeys(self.format)]
        for path in paths:
            check_output(path, path.suffix)
        config_text(self.load_config)
        silence_third_parties()
        # Only now: these take ten seconds.
        from l2o_splat.plugin.saved_scenes import check_run, check_something_is_exported, is_ours

        config, gaussians = check_run(self.load_config)
        check_something_is_exported(gaussians, crop)
        if self.ply_color_mode == "rgb" or not is_ours(config, plain):
            self._run_nerfstudio()
        else:
            from l2o_splat.plugin.export import export

            export(self.load_config, gaussians, selection, self.up, paths, title=config.experiment_name or "splat")
        for path in paths:
            print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")

    def _run_nerfstudio(self) -> None:
        from nerfstudio.scripts.exporter import ExportGaussianSplat

        ExportGaussianSplat(
            load_config=self.load_config,
            output_dir=self.output_dir,
            output_filename=self.output_filename,
            obb_center=self.obb_center,
            obb_rotation=self.obb_rotation,
            obb_scale=self.obb_scale,
            ply_color_mode=self.ply_color_mode,
        ).main()
