"""What is built from the sources works in an environment of its own, without the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from l2o_splat.ply import read_ply

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def run(*words, **options) -> str:
    """Standard output of a command that sees nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= options.pop("env", {})
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that is built from the source archive that is built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "source").mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    shutil.copytree(
        ROOT / "l2o_splat", folder / "source" / "l2o_splat", ignore=shutil.ignore_patterns("__pycache__", ".*")
    )
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source")
    assert [path.suffix for path in sorted((folder / "dist").iterdir())] == [".whl", ".gz"]
    return next((folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory) -> Path:
    """The scripts of a fresh environment with the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    run(
        *(sys.executable, "-m", "pip", "--quiet", "--python", scripts / "python", "install"),
        *("--no-deps", "--no-index", "--no-compile", wheel),
    )
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(scripts / "python", "-c", code).strip())
    # Path files there are not read, so that the editable install of this checkout is not seen.
    (site / "dependencies.pth").write_text(
        "\n".join(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
    )
    return scripts


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as opened:
        held = {name for name in opened.namelist() if ".dist-info/" not in name}
    files = (path.relative_to(ROOT) for path in (ROOT / "l2o_splat").rglob("*") if path.is_file())
    assert held == {path.as_posix() for path in files if "__pycache__" not in path.parts}


def test_the_installed_command_starts(scripts, tmp_path):
    assert "splat,check," in run(scripts / "l2o", "--help", cwd=tmp_path)


def notebook_as_script(**replaced: str) -> str:
    """The code of the notebook without its installation, and with some of its text replaced."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n".join(
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", [])
    )
    for name, value in replaced.items():
        code, times = re.subn(rf"\b{name} ?= ?(None|\d+)", f"{name}={value}", code)
        assert times == 1, f"{name} is {times} times in the notebook"
    return code


def test_the_notebook_makes_a_splat_with_the_installed_package(scripts, tmp_path):
    code = notebook_as_script(STEPS="3", num_views="9", width="64", height="48")
    code += '\nimport l2o_splat; print("package:", l2o_splat.__file__)'
    printed = run(scripts / "python", "-c", code, cwd=tmp_path, env={"L2O_SPLAT_CACHE": str(tmp_path / "cache")})
    assert str(scripts.parent) in printed.partition("package:")[2]
    assert "on photographs that were held out" in printed
    assert len(list((tmp_path / "renders").glob("*.png"))) == 2
    (gaussians,) = re.findall(r"([\d,]+) Gaussians in .*splat\.ply", printed)
    assert len(read_ply(tmp_path / "splat.ply")) == int(gaussians.replace(",", "")) >= 8000


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
