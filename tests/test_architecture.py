"""Imports point one way, nerfstudio stays in its room, and gsplat is imported when it draws, not before."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "l2o_splat").rglob("*.py"))

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def imports(tree: ast.AST, lazy: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Name and line of each absolute import, and whether it stands in a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from ((f"{node.module}.{alias.name}", node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield from ((name.value, node.lineno, lazy) for name in node.args[:1] if isinstance(name, ast.Constant))
        yield from imports(node, lazy or isinstance(node, FUNCTIONS))


def within(name: str, *packages: str) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def violations(allowed: Callable[[str, bool], bool], packages: list[str]) -> list[str]:
    """Imports of packages where ``allowed`` (path in l2o_splat, in a function or not) is false: file, line, name."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in SOURCES
        for name, line, lazy in imports(ast.parse(path.read_text(encoding="utf-8")))
        if within(name, *packages) and not allowed(path.relative_to(ROOT / "l2o_splat").as_posix(), lazy)
    ]


def test_imports_are_found_wherever_they_stand():
    source = """
import nerfstudio.cameras as cameras, torch
from nerfstudio import configs
from . import nerfstudio
if cameras:
    import nerfstudio
class Command:
    def run(self):
        from nerfstudio.utils import colors
load = lambda: importlib.import_module("nerfstudio.engine")
import nerfstudio_other
"""
    found = [entry for entry in imports(ast.parse(source)) if within(entry[0], "nerfstudio")]
    assert found == [
        ("nerfstudio.cameras", 2, False),
        ("nerfstudio.configs", 3, False),
        ("nerfstudio", 6, False),
        ("nerfstudio.utils.colors", 9, True),
        ("nerfstudio.engine", 10, True),
    ]


def test_rooms_import_downwards():
    # In a process of its own: the linter reconfigures logging, which would silence loggers of other tests.
    script = Path(sys.executable).with_name("lint-imports")
    command = [script, "--no-cache", "--config", ROOT / "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"An import points up, or a module has no place in pyproject.toml:\n{done.stdout}", pytrace=False)
    assert " 0 broken" in done.stdout


def test_only_the_plugin_imports_nerfstudio():
    def allowed(path, lazy):
        return path.startswith("plugin/") or (lazy and path.startswith(("cli.py", "commands/", "splat/")))

    # To import the plugin is to import nerfstudio.
    assert violations(allowed, ["nerfstudio", "l2o_splat.plugin"]) == []
    assert len(violations(lambda path, lazy: False, ["nerfstudio"])) > 0


def test_only_its_renderer_imports_gsplat_and_only_to_draw():
    assert violations(lambda path, lazy: lazy and path == "rendering/gsplat.py", ["gsplat"]) == []
    assert len(violations(lambda path, lazy: False, ["gsplat"])) > 0


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_package_loads_neither_gsplat_nor_nerfstudio():
    assert run("import sys, l2o_splat; print({'gsplat', 'nerfstudio', 'torch'} & sys.modules.keys())") == "set()\n"


def test_the_methods_load_without_gsplat():
    """nerfstudio itself needs one class of gsplat, so a stub with that class stands in for it; ours need nothing."""
    code = """
import sys, types
gsplat, strategy = types.ModuleType("gsplat"), types.ModuleType("gsplat.strategy")
strategy.DefaultStrategy = object
sys.modules |= {"gsplat": gsplat, "gsplat.strategy": strategy}
from l2o_splat.plugin import configs
print(configs.learn2splat.config.method_name, [name for name in sys.modules if name.startswith("gsplat")])
"""
    # nerfstudio prints a line of its own before.
    assert run(code).splitlines()[-1] == "learn2splat ['gsplat', 'gsplat.strategy']"


def test_what_only_a_run_needs_is_not_imported_for_the_options_of_ns_train():
    """numba and torchmetrics take a second each, which `ns-train METHOD --help` would wait for."""
    code = """
import sys
from l2o_splat.plugin import configs, dataparser
slow = {"numba", "pandas", "pycolmap", "lpips", "torchmetrics", "l2o_splat.rendering.cpu"}
print(slow & sys.modules.keys())
"""
    assert run(code).splitlines()[-1] == "set()"
