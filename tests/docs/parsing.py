"""Commands of the pages, parsed by the parsers of the programs themselves and not run."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from types import ModuleType

import tyro

from l2o_splat import cli
from l2o_splat.bench.methods import find_method
from l2o_splat.commands.presets import parse_with_preset
from tests.docs.pages import ROOT

ORDINARY = {
    "apt-get",
    "cd",
    "cp",
    "docker",
    "exiftool",
    "export",
    "git",
    "ray",
    "rm",
    "source",
    "srun",
    "ssh",
    "tensorboard",
    "torchrun",
}
"""Programs of the shell and of other projects; their options are not looked at."""


class WrongCommandError(AssertionError):
    """A command that its program would refuse."""


class UnfinishedCommandError(WrongCommandError):
    """A command that only lacks options which its program needs."""


@functools.cache
def parse(words: tuple[str, ...]) -> None:
    """Parse a command.

    Raises:
        WrongCommandError: With what its program says, or if there is no such program.
    """
    program = words[0] if words[0].endswith(".sh") else PurePosixPath(words[0]).name
    if program in ORDINARY:
        return
    if program.endswith(".sh"):
        _must_exist(program)
    elif program in _PROGRAMS:
        _PROGRAMS[program](list(words[1:]))
    else:
        raise WrongCommandError(f"{program} is no program that is known here")


def _quietly(parser: Callable, words: Sequence[str]):
    """What a parser makes of the words."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parser(list(words))
    except SystemExit as ended:
        if ended.code in (0, None):
            return None  # --help
        message = ended.code if isinstance(ended.code, str) else said.getvalue()
        lacks = "Required options" in message or "Missing subcommand" in message
        raise (UnfinishedCommandError if lacks else WrongCommandError)(message) from None


def _l2o(words: list[str]) -> None:
    if words[:2] == ["bench", "compare"]:
        words = ["bench-compare", *words[2:]]
    if words in ([], ["--help"]):
        return
    if words[0] not in cli.COMMANDS:
        raise WrongCommandError(f"l2o has no subcommand {words[0]}")
    command = cli.COMMANDS[words[0]]
    if hasattr(command, "of_preset"):
        _quietly(lambda words: parse_with_preset(command, "l2o", words), words[1:])
        return
    parsed = _quietly(lambda words: tyro.cli(_not_run(command), args=words), words[1:])
    if parsed is None:
        return
    if words[0] == "bench":
        for method in map(find_method, parsed["methods"] or ()):
            _ns_train([method.name, *method.options])
    elif words[0] == "splat":
        _ns_train([parsed.method])


def _not_run(command: type | Callable) -> type | Callable:
    """The command with its options; a function returns what it was called with."""
    if inspect.isclass(command):
        return command

    @functools.wraps(command)
    def called(*words, **options):
        return inspect.signature(command).bind(*words, **options).arguments

    return called


def _ns_train(words: list[str]) -> None:
    """As ``ns-train``, whose union of all methods is cut to the named one: errors then take no seconds."""
    from nerfstudio.configs.method_configs import all_methods

    if not words or words[0].startswith("-"):
        raise UnfinishedCommandError("ns-train needs a method")
    if words[0] not in all_methods:
        raise WrongCommandError(f"ns-train knows no method {words[0]}")
    kept = {name: all_methods[name] for name in {words[0], "splatfacto"}}
    union = tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[tyro.extras.subcommand_type_from_defaults(kept)]]
    _quietly(lambda words: tyro.cli(union, args=words), words)


def _ns_eval(words: list[str]) -> None:
    from nerfstudio.scripts.eval import ComputePSNR

    _quietly(lambda words: tyro.cli(ComputePSNR, args=words), words)


def _ns_viewer(words: list[str]) -> None:
    from nerfstudio.scripts.viewer.run_viewer import RunViewer

    _quietly(lambda words: tyro.cli(tyro.conf.FlagConversionOff[RunViewer], args=words), words)


def _ns_render(words: list[str]) -> None:
    # Only while it is needed: our data manager takes a process that has imported it for `ns-render`.
    script = _render_script()
    sys.modules[script.__name__] = script
    try:
        _quietly(lambda words: tyro.cli(script.Commands, args=words), words)
    finally:
        del sys.modules[script.__name__]


@functools.cache
def _render_script() -> ModuleType:
    return importlib.import_module("nerfstudio.scripts.render")


def _ns_export(words: list[str]) -> None:
    from nerfstudio.scripts.exporter import Commands

    _quietly(lambda words: tyro.cli(Commands, args=words), words)


def _make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in (word for word in words if "=" not in word):
        if target not in targets:
            raise WrongCommandError(f"the Makefile has no target {target}")


def _pip(words: list[str]) -> None:
    """Extras of this package must exist."""
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        if extras := re.fullmatch(r"(?:\.|l2o_splat|.*l2o_splat-[^\[]*\.whl)\[([\w,]+)\]", word):
            for extra in set(extras[1].split(",")) - known.keys():
                raise WrongCommandError(f"the package has no extra {extra}")


def _python(words: list[str]) -> None:
    """A script of the repository, with the options that it has."""
    if words[:1] == ["-m"]:
        if importlib.util.find_spec(words[1]) is None:
            raise WrongCommandError(f"there is no module {words[1]}")
        if words[1] == "pip":
            _pip(words[2:])
        return
    _must_exist(words[0])
    source = (ROOT / words[0]).read_text()
    for option in (word.partition("=")[0] for word in words[1:] if word.startswith("--")):
        field = option[2:].replace("-", "_")
        if f'"{option}"' not in source and not re.search(rf"^    {field}:", source, re.MULTILINE):
            raise WrongCommandError(f"{words[0]} has no option {option}")


def _must_exist(path: str) -> None:
    if not (ROOT / path).is_file():
        raise WrongCommandError(f"there is no file {path}")


_PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "l2o": _l2o,
    "ns-train": _ns_train,
    "ns-eval": _ns_eval,
    "ns-viewer": _ns_viewer,
    "ns-render": _ns_render,
    "ns-export": _ns_export,
    "make": _make,
    "pip": _pip,
    "python": _python,
    "python3": _python,
    "pytest": lambda words: None,
}
