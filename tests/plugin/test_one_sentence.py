"""How expected errors end a command, and that others keep their stack trace."""

import subprocess
import sys

import pytest
import torch

from l2o_splat.errors import L2OError
from l2o_splat.gaussians import Gaussians
from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.errors import OptionError, PluginError, one_sentence

UNCAUGHT = """
from l2o_splat.plugin.errors import OptionError
raise OptionError("the horizon is -1; at least 1 is needed.")
"""


def test_uncaught_it_ends_a_process_with_its_sentence():
    result = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "l2o_splat: the horizon is -1; at least 1 is needed.\n"


@pytest.mark.parametrize("kind", [CaptureError, OptionError])
def test_for_everyone_else_it_is_an_ordinary_error(kind):
    for base in (PluginError, L2OError, ValueError, Exception):
        with pytest.raises(base, match="^no images$"):
            raise kind("no images")


def test_expected_errors_become_a_sentence():
    with pytest.raises(SystemExit, match="^l2o_splat: no images$"), one_sentence():
        raise CaptureError("no images")
    with pytest.raises(SystemExit, match="^l2o_splat: Row"), one_sentence():
        Gaussians.unpack(torch.zeros(2, 15))


@pytest.mark.parametrize("error", [ValueError("math domain error"), TypeError("no number"), KeyError("w")])
def test_mistakes_of_the_program_keep_their_stack_trace(error):
    with pytest.raises(type(error)) as caught, one_sentence():
        raise error
    assert caught.value is error
