"""Parts whose processes are stand-ins, see fake_child.py."""

import sys
from pathlib import Path

from l2o_splat.prove.part import Part, Setting, judged
from l2o_splat.prove.runner import run_parts

FAKE_CHILD = (sys.executable, str(Path(__file__).with_name("fake_child.py")))


def part(name, **options):
    """A part that claims its value to be at most 1."""

    def judge(numbers):
        return [judged(f"{name} is at most 1", numbers["value"] <= 1, f"it is {numbers['value']}")]

    return Part(name, f"Whether {name} works.", (f"{name} is at most 1",), 1, lambda setting: {}, judge, **options)


def run(parts, out, again=(), **options):
    """Records by part, and what was said."""
    said = []
    records = run_parts(parts, Setting(out, **options), again, said.append, FAKE_CHILD)
    return {record.part: record for record in records}, "\n".join(said)


def attempts(out):
    return (out / "attempts").read_text().split()
