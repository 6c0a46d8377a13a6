"""``l2o demo``: train, evaluate and export on the built-in capture, with the commands that a user would type."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from l2o_splat.errors import L2OError

LEARN2SPLAT, RESPLAT = "learn2splat", "resplat"
RESPLAT_UPDATES = 4
FINISHING_STEPS = 40
"""Steps of learn2splat after the updates of resplat."""


class DemoError(L2OError, RuntimeError):
    """One of the demo's commands failed."""


@dataclass
class Demo:
    """Train, evaluate and export a splat of the built-in capture; needs no data, network or GPU."""

    out: Path = Path("demo")
    """Folder for the results; what an earlier demo left in it is replaced."""
    steps: int = 80
    """Training steps."""
    seed: int = 0
    """Another seed gives another capture."""

    def run(self) -> None:
        """Run both methods and print where their results are.

        learn2splat optimizes the capture's points on all photographs for ``steps`` steps; resplat predicts a scene from
        a few of them, updates it, and hands it to learn2splat.

        Raises:
            DemoError: If one of the commands fails; the command has printed why.
        """
        finish = ["--optimizers.gaussians.optimizer.finish-with", LEARN2SPLAT]
        finish += ["--optimizers.gaussians.optimizer.finish-after", str(RESPLAT_UPDATES)]
        horizon = ["--optimizers.gaussians.optimizer.horizon", str(self.steps)]
        lines = [
            _show(LEARN2SPLAT, self.out, self.steps, self.seed, horizon),
            _show(RESPLAT, self.out, RESPLAT_UPDATES + FINISHING_STEPS, self.seed, finish),
        ]
        print("\n" + "\n".join(lines))


def _show(method: str, out: Path, steps: int, seed: int, options: list[str]) -> str:
    """Train, evaluate and export the splat of one method; return the lines to print about it."""
    folder = out / method
    shutil.rmtree(folder, ignore_errors=True)
    train = ["ns-train", method, "--output-dir", str(folder), "--timestamp", "latest", "--experiment-name", "runs"]
    train += ["--max-num-iterations", str(steps), *options]
    train += ["--vis", "tensorboard", "l2o-demo", "--seed", str(seed)]
    _run(train)
    config = folder / "runs" / method / "latest" / "config.yml"
    metrics, renders, splat = folder / "metrics.json", folder / "renders", folder / "splat.ply"
    _run(["ns-eval", "--load-config", config, "--output-path", metrics, "--render-output-path", renders])
    export = ["--output-dir", folder, "--output-filename", splat.name]
    _run(["ns-export", "gaussian-splat", "--load-config", config, *export])
    picture = _picture(renders, folder / "picture.png")
    results = json.loads(metrics.read_text())["results"]
    return (
        f"{method}, {steps} steps on l2o-demo seed {seed}: PSNR {results['psnr']:.2f} dB, SSIM {results['ssim']:.4f} "
        f"on held-out views.\n"
        f"  picture  {picture}  (left: held-out photographs, right: the splat)\n"
        f"  splat    {splat}\n"
        f"  metrics  {metrics}\n"
        f"  view it  ns-viewer --load-config {config}"
    )


def _run(command: list[str | Path]) -> None:
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    scripts = Path(sys.executable).parent
    # Run the scripts beside this python, wherever the PATH points.
    path = f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
    result = subprocess.run([str(scripts / words[0]), *words[1:]], env=environment)
    if result.returncode:
        raise DemoError(f"{words[0]} ended with status {result.returncode}; `l2o check` tells what this machine lacks.")


def _picture(renders: Path, picture: Path, views: int = 3) -> Path:
    """Stack the first held-out views, photograph beside render, as nerfstudio saved them; return the path."""
    from PIL import Image

    images = [Image.open(path) for path in sorted(renders.glob("*.png"))[:views]]
    sheet = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    sheet.save(picture)
    return picture
