"""Every command that the pages show is one that its program takes."""

import pytest

from tests.docs.pages import ROOT, Command, Markdown, pages
from tests.docs.parsing import ORDINARY, UnfinishedCommandError, WrongCommandError, parse

IN_TEXT = ("l2o", "ns-train", "ns-eval", "ns-viewer", "ns-render", "ns-export", "make", "python")
"""Programs whose commands are also looked for in the text."""
STANDS_FOR = {"METHOD": "l2o-adam", "N": "100", "S": "60", "PART": "facts"}
"""In the text, what is no path and stands for one word of many."""


def in_text(page: Markdown) -> list[Command]:
    return [
        Command(command.place, tuple(STANDS_FOR.get(word, word) for word in command.words))
        for command in page.commands_in_text(IN_TEXT)
        if "NAME" not in " ".join(command.words).split()  # It stands for something that is still to be made.
    ]


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_are_taken_by_their_programs(path):
    page, wrong = Markdown.read(path), []
    for command in page.commands():
        try:
            parse(command.words)
        except WrongCommandError as error:
            wrong.append(f"{command}\n{error}")
    for command in in_text(page):
        try:
            parse(command.words)
        except UnfinishedCommandError:
            pass  # The text names what matters there.
        except WrongCommandError as error:
            wrong.append(f"{command}\n{error}")
    assert not wrong, "\n\n".join(wrong)


def test_the_pages_show_commands_of_every_program():
    programs = {command.words[0] for path in pages() for command in Markdown.read(path).commands()}
    assert {"l2o", "ns-train", "ns-eval", "ns-viewer", "ns-render", "ns-export", "make", "python", "pip"} <= programs


@pytest.mark.parametrize(
    "line",
    [
        "l2o splatt PHOTOS",
        "l2o splat PHOTOS --second 5",
        "l2o splat PHOTOS --seconds long",
        "l2o bench --data CAPTURE --methods 'x=l2o-adam --no-such-option 1'",
        "l2o bench compare A",
        "l2o weights forget NAME",
        "ns-train no-such-method --data CAPTURE",
        "ns-train l2o-adam --data CAPTURE --steps 5",
        "ns-train l2o-adam --data CAPTURE colmap --no-such-option 1",
        "ns-eval --config CONFIG",
        "ns-viewer --load-config CONFIG --open",
        "ns-render spiralling --load-config CONFIG",
        "ns-export gaussian-splat --load-config CONFIG",
        "make everything",
        "pip install 'l2o_splat[everything]'",
        "python benchmarks/no_such_file.py",
        "python benchmarks/step.py --no-such-option",
        "benchmarks/no_such_file.sh",
        "no-such-program",
    ],
)
def test_wrong_commands_are_found(line, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{line}\n```\n")
    (command,) = Markdown.read(page, tmp_path).commands()
    with pytest.raises(WrongCommandError):
        parse(command.words)


def test_a_mistyped_option_of_ns_train_is_named():
    with pytest.raises(WrongCommandError, match=r"Unrecognized options: --secnds(.|\n)*--seconds"):
        parse(("ns-train", "l2o-adam-tuned", "--data", "CAPTURE", "--secnds", "60"))


def test_commands_are_found_as_a_shell_would(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`l2o\ncheck` and `l2o bench ...`, `l2o`\n```bash\n# nothing\nA=1 B='2 3' l2o check --json   # all of it\n"
        "for x in a b; do\n    make test && l2o photos 'my photos' \\\n        --out CAPTURE | cat\ndone\n```\n"
        "```python\nprint()\n```\n"
    )
    page = Markdown.read(page, tmp_path)
    assert [" ".join(command.words) for command in page.commands()] == [
        "l2o check --json",
        "make test",
        "l2o photos my photos --out CAPTURE",
        "cat",
    ]
    assert [(str(command.place), command.words) for command in page.commands_in_text(("l2o",))] == [
        ("page.md:1", ("l2o", "check"))
    ]


def test_ordinary_programs_are_none_of_ours():
    assert not [name for name in ORDINARY if name.startswith(("l2o", "ns-"))]
