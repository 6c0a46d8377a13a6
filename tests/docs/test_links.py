"""Links of the pages, and names of pages in code, lead somewhere."""

import re
import subprocess

import pytest

from tests.docs.pages import ROOT, Markdown, pages

SOURCES = ("l2o_splat", "tests", "benchmarks", "examples", "Makefile", "Dockerfile", "pyproject.toml", "CITATION.cff")
"""What may name a page in a comment or a message."""


def broken_links(page: Markdown) -> list[str]:
    """What a page links to and does not exist; links to other sites are not looked at."""
    broken = []
    for place, target in page.links():
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        if not path.exists():
            broken.append(f"{place}: {target} does not exist")
        elif anchor and path.suffix == ".md" and anchor not in Markdown.read(path, path.parent).anchors():
            broken.append(f"{place}: {target} names no heading")
    return broken


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_images_exist(path):
    assert not broken_links(Markdown.read(path))


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `code` heading, twice\n# A code heading, twice\n[good](#a-code-heading-twice-1) [bad](#another)\n"
        '![bad](none.png) <img src="none.svg"> `[no](link)` [away](https://example.org)\n```\n[no](link)\n```\n'
    )
    found = broken_links(Markdown.read(page, tmp_path))
    assert [line.split(": ")[1].split()[0] for line in found] == ["#another", "none.png", "none.svg"]


def test_every_page_is_listed_in_the_index():
    index = Markdown.read(ROOT / "docs" / "README.md")
    listed = {(index.path.parent / target.partition("#")[0]).resolve() for _, target in index.links()}
    missing = [path for path in pages() if path.is_relative_to(ROOT / "docs") and path not in {index.path, *listed}]
    assert not missing


def test_pages_that_code_and_messages_name_exist():
    files = subprocess.run(["git", "ls-files", "--", *SOURCES], cwd=ROOT, capture_output=True, text=True)
    if files.returncode or not files.stdout:
        pytest.skip("needs the files of a git checkout")
    missing = set()
    for name in files.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".sh", ".toml", ".cff", ".ipynb", "") and path.is_file():
            for page in re.findall(r"\bdocs/[\w/-]+\.(?:md|svg|jpg|png)\b", path.read_text(encoding="utf-8")):
                if not (ROOT / page).exists():
                    missing.add(f"{name}: {page}")
    assert not missing
