"""Commands of the pages that need no network, card, container or capture do what the pages say.

Those that take seconds run elsewhere: ``l2o check`` and ``l2o demo`` in continuous integration, beside these tests.
"""

import sys

import pytest

from l2o_splat import cli
from tests.docs.pages import Markdown, pages

HARMLESS = {
    "l2o weights list": "gain-mini",
    "l2o weights show gain-mini": "trust_decay",
    "l2o prove --list": "step-time",
}
"""Commands that change nothing, and a word of what they print."""


@pytest.mark.parametrize("line", HARMLESS)
def test_commands_that_change_nothing_run(line, capsys, monkeypatch):
    shown = {" ".join(command.words) for path in pages() for command in Markdown.read(path).commands()}
    assert line in shown, f"no page shows {line}; take it out of this test"
    monkeypatch.setattr(sys, "argv", line.split())
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().out
    assert HARMLESS[line] in said
    assert ended.value.code in (0, None)
