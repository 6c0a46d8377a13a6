"""The ``config.yml`` of a run, checked before nerfstudio builds objects from it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig

from l2o_splat.plugin.config_file import BrokenConfigError, broken_config, config_text

_TAG = "tag:yaml.org,2002:python/"
_PLAIN_TAGS = {"tuple", "none", "bool", "int", "float", "str", "list", "dict"}
_TRUSTED = {"nerfstudio", "l2o_splat", "pathlib", "collections"}
_PLUGIN_GROUPS = ("nerfstudio.method_configs", "nerfstudio.dataparser_configs")


def read_config(path: Path) -> TrainerConfig:
    """The config of a run, as nerfstudio reads it.

    nerfstudio's reader calls any function that the file names. Names outside of nerfstudio, its plugins and this
    package are refused before.

    Raises:
        BrokenConfigError: If the file is missing, no YAML, of another program, or of another version.
    """
    text = config_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise broken_config(path, f"it is no YAML ({' '.join(str(error).split())})") from error
    if node is None:
        raise broken_config(path, "it is empty")
    _check_names(node, path)
    try:
        config = yaml.load(text, Loader=yaml.Loader)
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, LookupError) as error:
        raise broken_config(path, f"an object in it cannot be built ({' '.join(str(error).split())})") from error
    if not isinstance(config, TrainerConfig):
        raise broken_config(path, f"it holds a {type(config).__name__}, not the config of a run")
    missing = next(_missing_fields(config, "config"), None)
    if missing is not None:
        raise broken_config(path, f"{missing} is missing")
    if config.method_name not in all_methods:
        raise broken_config(path, f"its method {config.method_name} is not installed")
    return config


def _check_names(node: yaml.Node, path: Path) -> None:
    trusted = _TRUSTED | _plugins()
    for tag in _tags(node, set()):
        kind, _, name = tag.removeprefix(_TAG).partition(":")
        if not tag.startswith(_TAG) or (not name and kind in _PLAIN_TAGS):
            continue
        if name.partition(".")[0] not in trusted:
            raise BrokenConfigError(
                f"{path} names {name or kind}, which is neither nerfstudio's nor that of an installed plugin; a config "
                "that runs code of others is not opened: use the one that ns-train wrote."
            )


def _plugins() -> set[str]:
    points = (point for group in _PLUGIN_GROUPS for point in importlib.metadata.entry_points(group=group))
    return {point.value.partition(":")[0].partition(".")[0] for point in points}


def _tags(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # Aliases may lead back.
        return
    seen.add(id(node))
    yield node.tag
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    else:
        children = []
    for child in children:
        yield from _tags(child, seen)


def _missing_fields(value: Any, name: str) -> Iterator[str]:
    """Fields of dataclasses that the file does not set and that have no default in the class."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _missing_fields(entry, f"{name}.{key}")
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return
    for field in dataclasses.fields(value):
        if not hasattr(value, field.name):
            yield f"{name}.{field.name}"
        else:
            yield from _missing_fields(getattr(value, field.name), f"{name}.{field.name}")
