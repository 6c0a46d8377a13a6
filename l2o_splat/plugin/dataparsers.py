"""nerfstudio's dataparsers, named as on the command line of ``ns-train``."""

from __future__ import annotations

from collections.abc import Sequence

import tyro
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig


def dataparser_config(words: Sequence[str]) -> DataParserConfig:
    """Parse the name of a dataparser and its options.

    Raises:
        SystemExit: If there is no such dataparser or option; tyro has printed what is wrong.
    """
    return tyro.cli(AnnotatedDataParserUnion, args=list(words), prog="--dataparser")
