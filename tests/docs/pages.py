"""The pages that people read: where they link to, and which commands they show."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^ *(```+|~~~+) *(\S*)")
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|<(?:img|a)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^(#{1,6}) +(.*?)(?: +#+)? *$")
_SHELLS = ("bash", "sh", "shell", "console")
_KEYWORDS = {"do", "then", "else"}
"""Words of the shell that a command may follow."""
_STRUCTURE = {"for", "while", "if", "done", "fi"}
"""Words that begin a part of a line without a command."""
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def pages(root: Path = ROOT) -> list[Path]:
    """README.md, CHANGELOG.md and everything in docs/."""
    return [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Place:
    """A line of a page."""

    page: str
    line: int

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a page, without the assignments before it."""

    place: Place
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


@dataclass
class Markdown:
    """A page, its prose apart from its blocks of code."""

    path: Path
    name: str
    """Path below the root, for messages."""
    prose: list[str]
    """One entry per line of the file; lines of code blocks are empty."""
    blocks: list[tuple[int, str, list[str]]]
    """Number of the first line, language, and lines of each block."""

    @classmethod
    def read(cls, path: Path, root: Path = ROOT) -> Markdown:
        """Read a page.

        Raises:
            ValueError: If a block of code is not closed.
        """
        prose, blocks, fence = [], [], None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            mark = _FENCE.match(line)
            if fence is None and mark:
                fence = mark[1]
                blocks.append((number + 1, mark[2], []))
            elif fence is not None and line.strip() == fence:
                fence = None
            elif fence is not None:
                blocks[-1][2].append(line)
            else:
                prose.append(line)
                continue
            prose.append("")
        if fence is not None:
            raise ValueError(f"{path}: the block of code from line {blocks[-1][0]} on is not closed")
        return cls(path, path.relative_to(root).as_posix(), prose, blocks)

    def anchors(self) -> set[str]:
        """What a link can name after ``#``, as GitHub makes it of headings."""
        found: dict[str, int] = {}
        anchors = set()
        for line in self.prose:
            if heading := _HEADING.match(line):
                text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[2])
                anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                count = found.get(anchor, 0)
                found[anchor] = count + 1
                anchors.add(f"{anchor}-{count}" if count else anchor)
        return anchors

    def links(self) -> Iterator[tuple[Place, str]]:
        """Targets of links and images."""
        for number, line in enumerate(self.prose, 1):
            for link in _LINK.finditer(re.sub(r"`[^`]*`", "", line)):
                yield Place(self.name, number), link[1] or link[2]

    def commands(self) -> Iterator[Command]:
        """The commands of its blocks for a shell."""
        for first, language, lines in self.blocks:
            if language in _SHELLS:
                yield from _commands_of(self.name, first, lines)

    def commands_in_text(self, programs: tuple[str, ...]) -> Iterator[Command]:
        """Whole commands in backquotes: those of some programs, with a word after the program and nothing left out."""
        text = "\n".join(self.prose)
        for span in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
            line = " ".join(span[1].split())
            if line.startswith(tuple(f"{program} " for program in programs)) and "..." not in line:
                yield from _commands_of(self.name, text.count("\n", 0, span.start()) + 1, [line])


def _commands_of(page: str, first: int, lines: list[str]) -> Iterator[Command]:
    start, whole = first, ""
    for number, line in enumerate(lines, first):
        if not whole:
            start = number
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        for words in _split(whole):
            yield Command(Place(page, start), tuple(words))
        whole = ""


def _split(line: str) -> Iterator[list[str]]:
    """The commands of a line: between ``;``, ``&&``, ``||`` and ``|``, without comments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, ";"]:
        if set(token) <= set(";|&"):
            while words and (words[0] in _KEYWORDS or _ASSIGNMENT.match(words[0])):
                words.pop(0)
            if words and words[0] not in _STRUCTURE:
                yield words
            words = []
        else:
            words.append(token)
