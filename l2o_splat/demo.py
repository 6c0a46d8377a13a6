"""``l2o demo``: the main job from start to end on the built-in capture, with the commands a user would type."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

LEARN2SPLAT, RESPLAT = "learn2splat", "resplat"
RESPLAT_UPDATES, FINISHING_STEPS = 4, 40


class DemoError(RuntimeError):
    """One of the demo's commands failed."""


def demo(out: Path, steps: int, seed: int) -> None:
    """Train, evaluate and export splats of the built-in capture; no data, no network, no GPU needed.

    learn2splat optimizes the capture's points on all photographs; resplat predicts a scene from a few of them, updates
    it, and hands it to learn2splat.

    Args:
        out: Folder for the results, one per method in it; what an earlier demo left there is replaced.
        steps: Training steps of learn2splat.
        seed: Another seed gives another capture.

    Raises:
        DemoError: when one of the commands fails; its own message stands above.
    """
    finish = ["--optimizers.gaussians.optimizer.finish-with", LEARN2SPLAT]
    finish += ["--optimizers.gaussians.optimizer.finish-after", str(RESPLAT_UPDATES)]
    lines = [
        _show(LEARN2SPLAT, out, steps, seed, ["--optimizers.gaussians.optimizer.horizon", str(steps)]),
        _show(RESPLAT, out, RESPLAT_UPDATES + FINISHING_STEPS, seed, finish),
    ]
    print("\n" + "\n".join(lines))


def _show(method: str, out: Path, steps: int, seed: int, options: list[str]) -> str:
    """Train, evaluate and export one method's splat; what to tell about it."""
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
    # The scripts beside this python, wherever the PATH points.
    path = f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PATH": path, "PYTHONWARNINGS": "ignore"}
    result = subprocess.run([str(scripts / words[0]), *words[1:]], env=environment)
    if result.returncode:
        raise DemoError(f"{words[0]} ended with status {result.returncode}; `l2o check` tells what this machine lacks.")


def _picture(renders: Path, picture: Path, views: int = 3) -> Path:
    """Held-out views under each other, photograph beside render, as nerfstudio saved them."""
    from PIL import Image

    images = [Image.open(path) for path in sorted(renders.glob("*.png"))[:views]]
    sheet = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
    top = 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height
    sheet.save(picture)
    return picture
