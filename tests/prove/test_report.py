"""The report, opened and read."""

import json
import re
from html.parser import HTMLParser

import pytest

from l2o_splat.prove.chart import chart
from l2o_splat.prove.part import Setting
from l2o_splat.prove.parts import PARTS
from l2o_splat.prove.records import Record, judgements_of
from l2o_splat.prove.report import write_report
from tests.prove.test_verdicts import GOOD, changed


class Page(HTMLParser):
    """Rows of tables as lists of texts, and all addresses."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.addresses, self.ids, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.rows[-1][-1] += data


def record_of(part, numbers):
    return Record(part.name, {}, "measured", "", 1.5, "today", judgements_of(part, numbers), numbers, "<last> & words")


@pytest.fixture
def report(tmp_path):
    """Everything proven but for a method, which is refuted, and garden, which did not run."""
    numbers = GOOD | {"methods": changed("methods", "diff3r", "card", "curve", 1, 2, to=float("nan"))}
    records = {part.name: record_of(part, numbers[part.name]) for part in PARTS if part.name != "garden"}
    write_report(PARTS, records, {"garden": "It needs --garden DIR."}, Setting(tmp_path), "l2o prove --out x")
    return tmp_path


def test_every_claim_is_there_with_its_verdict(report):
    page = Page((report / "report.html").read_text())
    found = {row[1]: row for row in page.rows if row}
    for part in PARTS:
        for claim in part.claims:
            verdict, _, reason, name = found.pop(claim)
            refuted = claim.startswith("diff3r")
            expected = "not decided" if part.name == "garden" else "refuted" if refuted else "proven"
            assert (verdict, name) == (expected, part.name)
            assert reason == "It needs --garden DIR." if part.name == "garden" else reason
    assert not found


def test_the_page_needs_nothing_else(report):
    text = (report / "report.html").read_text()
    page = Page(text)
    assert "{{" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL) and "<script" not in text
    assert all(address.startswith("#") for address in page.addresses)
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert "l2o prove --out x" in text and "&lt;last&gt; &amp; words" in text
    assert "Held-out PSNR over seconds" in text and ">splatfacto</text>" in text
    assert "published</text>" not in text  # There is no curve of garden to compare it with.


def test_the_numbers_are_json_that_every_reader_takes(report):
    def refuse(constant):
        raise AssertionError(constant)

    values = json.loads((report / "report.json").read_text(), parse_constant=refuse)
    claims = [claim for part in values["parts"] for claim in part["claims"]]
    assert len(claims) == sum(len(part.claims) for part in PARTS) == sum(values["verdicts"].values())
    assert values["verdicts"]["refuted"] == 1 and values["verdicts"]["not decided"] == 6
    parts = {part["part"]: part for part in values["parts"]}
    assert parts["methods"]["numbers"]["diff3r"]["card"]["curve"][1][2] == "nan"
    assert parts["garden"]["status"] == "left out" and parts["facts"]["seconds"] == 1.5
    assert values["environment"]["torch"] and values["environment"]["command"] == "l2o prove --out x"


def test_a_rehearsal_says_that_it_is_one(tmp_path):
    reasons = {part.name: "It was not chosen." for part in PARTS}
    for device in ("cpu", "cuda"):
        write_report(PARTS, {}, reasons, Setting(tmp_path, device), "l2o prove")
        assert ("This is a rehearsal" in (tmp_path / "report.html").read_text()) == (device == "cpu")


def test_curves_go_through_their_points():
    drawing = chart({"a<b": [(0, 10), (5, 15), (10, 20), (11, float("nan"))]}, "s", "dB")
    (points,) = re.findall(r'points="([^"]+)"', drawing)
    first, middle, last = (tuple(map(float, point.split(","))) for point in points.split())
    assert first[0] < last[0] and first[1] > last[1]
    assert middle == pytest.approx(tuple((a + b) / 2 for a, b in zip(first, last, strict=True)))
    assert "a&lt;b" in drawing
    assert chart({"nothing": []}, "s", "dB") == ""
