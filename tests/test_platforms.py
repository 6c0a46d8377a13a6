"""What is not on every operating system is used in one module, which does without it where it is missing.

These tests run on Linux and read the sources for the rest: nobody has run the package on macOS or Windows.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l2o_splat import system
from l2o_splat.environment import environment

ROOT = Path(__file__).resolve().parents[1]

MODULES = {"fcntl", "grp", "msvcrt", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty", "winreg"}
OF_LINUX = {"sched_getaffinity", "sched_setaffinity", "memfd_create", "posix_fadvise", "posix_fallocate", "eventfd"}
OF_UNIX = {
    "fork",
    "getloadavg",
    "getuid",
    "killpg",
    "mkfifo",
    "nice",
    "pread",
    "pwrite",
    "register_at_fork",
    "sendfile",
}
OF_UNIX |= {"getpgid", "setpgid", "setsid", "statvfs", "sysconf", "uname", "chown", "wait4", "sendfile"}
FUNCTIONS = OF_LINUX | OF_UNIX | {"startfile"}
"""Of the module ``os``."""
SIGNALS = {"SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause", "setitimer"}
FOLDERS = ("/proc/", "/sys/", "/dev/")

GUARDED = {"threads.py": {"os.register_at_fork"}}
"""Uses elsewhere than in ``system.py``; each asks whether it is there."""


def uses(tree: ast.AST, guards: tuple[str, ...] = ()) -> Iterator[tuple[str, bool]]:
    """What the sources use that some systems lack, and whether they ask for it before."""
    for node in ast.iter_child_nodes(tree):
        inside = guards
        if isinstance(node, ast.Try):
            inside += tuple(ast.unparse(handler.type) for handler in node.handlers if handler.type)
        elif isinstance(node, ast.If | ast.IfExp):
            inside += (ast.unparse(node.test),)
        names, known = [], ()
        if isinstance(node, ast.Import):
            names, known = [alias.name for alias in node.names if alias.name in MODULES], ("ImportError",)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names, known = [node.module], ("ImportError",)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            lacking = {"os": FUNCTIONS, "signal": SIGNALS}.get(node.value.id, ())
            names = [ast.unparse(node)] if node.attr in lacking else []
            known = (f"hasattr({node.value.id}, '{node.attr}')", f"{node.attr}_names")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(FOLDERS):
            names, known = [node.value], ("exists()",)
        yield from ((name, any(one in guard for one in known for guard in inside)) for name in names)
        yield from uses(node, inside)


def test_uses_are_found_with_their_guards():
    source = """
import fcntl, os
try:
    import resource
except ImportError:
    pass
if hasattr(os, "fork"):
    os.fork()
os.kill(1, signal.SIGKILL)
text = "see /proc/x" + open("/proc/x").read()
"""
    expected = [("fcntl", False), ("resource", True), ("os.fork", True), ("signal.SIGKILL", False), ("/proc/x", False)]
    assert list(uses(ast.parse(source))) == expected


def test_one_module_knows_what_differs_between_systems():
    found = {}
    for path in sorted((ROOT / "l2o_splat").rglob("*.py")):
        if path != Path(system.__file__):
            for name, is_guarded in uses(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(path.relative_to(ROOT / "l2o_splat").as_posix(), set()).add(name)
                assert is_guarded, f"{path.name} uses {name}, which some systems lack; let l2o_splat/system.py do it"
    assert found == GUARDED


@pytest.fixture
def bare(monkeypatch):
    """A system without what this one has beyond the common."""
    for name in FUNCTIONS:
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.delattr(os, "sysconf_names")
    for name in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(system, "_entry", lambda file, pattern: None)


def test_questions_have_an_answer_on_any_system(bare):
    assert system.usable_cores() == os.cpu_count()
    asked = (system.processor, system.total_memory, system.available_memory, system.peak_memory)
    assert [ask() for ask in asked] == [None] * 4 and system.kills_for_memory() == 0
    assert environment()["memory"] == "unknown" and int(environment()["cores"]) >= 1


def test_answers_are_those_of_this_system():
    assert 1 <= system.usable_cores() <= os.cpu_count()
    assert 2**20 < system.available_memory() <= system.total_memory()
    assert 2**20 < system.peak_memory() < system.total_memory()


def test_a_process_is_killed_on_any_system(bare):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    system.kill_with_children(process)
    assert process.returncode == system.KILLED


def test_the_command_starts_where_modules_of_unix_are_missing():
    code = f"""
import sys
sys.modules |= dict.fromkeys({sorted(MODULES - {"posix"})})
from l2o_splat.cli import main
main(["bench", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: l2o bench" in done.stdout
