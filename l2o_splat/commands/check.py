"""``l2o check``: what this machine can do, and what to run where something is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SYSTEM_LIBRARIES = "libgl1 libx11-6 libgomp1"
"""Debian packages with the libraries that open3d loads."""

COMPILING_SECONDS = 5.0
"""A trial image that takes longer than this has been waiting for a compiler."""


@dataclass(frozen=True)
class Finding:
    """One part of this installation, and whether it works; a line of the report."""

    name: str
    ok: bool
    found: str
    """What is there, or what is wrong."""
    remedy: str = ""
    """Command to run; empty if there is nothing to do."""
    needed: bool = True
    """False for a part that l2o_splat works without, with fewer abilities."""


def run_checks() -> list[Finding]:
    """Check all parts, in the order in which a user meets them. Takes some seconds, because nerfstudio is imported."""
    checks: list[Callable[[], Finding]] = [
        check_python,
        check_torch,
        check_device,
        check_gsplat,
        check_renderer,
        check_methods,
        check_open3d,
        check_ffmpeg,
        check_weights,
        check_lpips,
        check_photos,
    ]
    return [check() for check in checks]


def check_python() -> Finding:
    """Find the Python version and the number of cores."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if platform.system() != "Linux":
        return Finding("python", True, f"{found}; only Linux has been tested")
    return Finding("python", True, found)


def check_torch() -> Finding:
    """Find which build of torch is installed."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return Finding("torch", True, f"{torch.__version__} ({build} build, {torch.get_num_threads()} threads)")


def check_device() -> Finding:
    """Find the device that training will run on."""
    import torch

    if not torch.cuda.is_available():
        return Finding("device", True, "no CUDA device: everything runs on the CPU")
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Finding("device", True, f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")


def check_renderer() -> Finding:
    """Draw an image with gsplat's kernels on CUDA, else with ours. Both are compiled at their first use."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = f"gsplat {importlib.metadata.version('gsplat')}" if device == "cuda" else "numba CPU kernels"
    remedy = {
        "cuda": "install the CUDA toolkit that matches torch (nvcc on the PATH), see docs/installation.md",
        "cpu": "pip install --upgrade numba",
    }
    from l2o_splat.rendering.trial import draw_trial_image

    try:
        seconds = draw_trial_image(device)
    except (ImportError, RuntimeError, OSError) as error:
        return Finding("renderer", False, f"{name} cannot draw ({' '.join(str(error).split())})", remedy[device])
    compiled = "compiled now" if seconds > COMPILING_SECONDS else "compiled before"
    return Finding("renderer", True, f"{name} draw ({compiled})")


def check_gsplat() -> Finding:
    """Compare the installed gsplat with the version that nerfstudio pins."""
    version = importlib.metadata.version("gsplat")
    return Finding("gsplat", True, f"{version}; nerfstudio pins 1.4.0, newer ones work too")


def check_methods() -> Finding:
    """Check that nerfstudio finds and loads our methods and dataparser."""
    try:
        version = importlib.metadata.version("nerfstudio")
    except importlib.metadata.PackageNotFoundError:
        return Finding("nerfstudio", False, "not installed", "pip install nerfstudio")
    names, broken = [], []
    for group in ("nerfstudio.method_configs", "nerfstudio.dataparser_configs"):
        for entry_point in importlib.metadata.entry_points(group=group):
            if not entry_point.value.startswith("l2o_splat."):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # nerfstudio's own, which nobody can act on
                    entry_point.load()
                names.append(entry_point.name)
            except ImportError as error:
                broken.append(f"{entry_point.name}: {error}")
    if broken or not names:
        found = f"{version}, but {'; '.join(broken) or 'our methods are not registered'}"
        return Finding("nerfstudio", False, found, "pip install --force-reinstall l2o_splat")
    return Finding("nerfstudio", True, f"{version}, finds {', '.join(sorted(names))}")


def check_open3d() -> Finding:
    """Check open3d, which nerfstudio needs to read point clouds and to export."""
    # In a process of its own: a missing system library must not end this one.
    result = subprocess.run(
        [sys.executable, "-c", "import open3d; print(open3d.__version__)"], capture_output=True, text=True
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it ended without a message"])[-1]
        return Finding("open3d", False, reason, f"pip install 'open3d<0.20' && apt-get install {SYSTEM_LIBRARIES}")
    return Finding("open3d", True, f"{result.stdout.strip()}, loads")


def check_ffmpeg() -> Finding:
    """Check ffmpeg, which ns-render calls to write videos."""
    path = shutil.which("ffmpeg")
    if path is None:
        return Finding("ffmpeg", False, "not on the PATH, so ns-render cannot write videos", "l2o check --fix")
    return Finding("ffmpeg", True, path)


def check_weights() -> Finding:
    """Check which published weights are on this machine."""
    from l2o_splat.weights.catalogue import CATALOGUE, HubFile

    absent = [name for name, entry in CATALOGUE.items() if not HubFile.parse(entry.location).is_cached()]
    if absent:
        remedy = f"with a network: l2o weights fetch {absent[0]}"
        return Finding("weights", False, f"{', '.join(absent)}: not fetched yet", remedy, needed=False)
    return Finding("weights", True, f"{', '.join(CATALOGUE)}: fetched", needed=False)


def check_lpips() -> Finding:
    """Check for the AlexNet weights of LPIPS."""
    import torch

    from l2o_splat.weights.imported import how_to_import, imported

    file = imported("lpips-alexnet")
    if file is not None:
        return Finding("lpips", True, f"imported to {file}", needed=False)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if any(folder.glob("alexnet-*.pth")):
        return Finding("lpips", True, f"AlexNet in {folder}", needed=False)
    return Finding("lpips", False, "its AlexNet is not here, so LPIPS is left out", how_to_import(), needed=False)


def check_photos() -> Finding:
    """Check pycolmap, which ``l2o photos`` needs."""
    try:
        return Finding("photos", True, f"pycolmap {importlib.metadata.version('pycolmap')}", needed=False)
    except importlib.metadata.PackageNotFoundError:
        return Finding("photos", False, "pycolmap is not installed", "pip install 'l2o_splat[photos]'", needed=False)


def link_ffmpeg() -> Path | None:
    """Link imageio-ffmpeg's program beside python under the name ffmpeg, unless there is one on the PATH.

    Returns:
        The new link, or None if there was nothing to do.
    """
    if shutil.which("ffmpeg") is not None:
        return None
    import imageio_ffmpeg

    link = Path(sys.executable).parent / "ffmpeg"
    if link.exists():
        return None
    if os.name == "nt":  # Links need a privilege there.
        return Path(shutil.copy(imageio_ffmpeg.get_ffmpeg_exe(), link.with_suffix(".exe")))
    link.symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    return link


def report(findings: list[Finding]) -> Iterator[str]:
    """Write the findings as lines of text."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok     " if finding.ok else "MISSING" if finding.needed else "without"
        yield f"{mark}  {finding.name:<{width}}  {finding.found}"
        if not finding.ok and finding.remedy:
            yield f"{'':9}{'':{width}}  -> {finding.remedy}"


@dataclass
class Check:
    """Tell what this machine can do, and what to run where something is missing."""

    fix: bool = False
    """First do what can be done without a system package (an ffmpeg beside python)."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> int:
        """Print the report; return exit status 1 if something that is needed is missing."""
        if self.fix:
            link = link_ffmpeg()
            if link is not None and not self.json:
                print(f"Put ffmpeg at {link}; it is on the PATH where this environment is activated.")
            # The report should see what an activated environment sees.
            os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        findings = run_checks()
        if self.json:
            print(json.dumps([asdict(finding) for finding in findings], indent=2))
        else:
            print("\n".join(report(findings)))
        return int(any(finding.needed and not finding.ok for finding in findings))
