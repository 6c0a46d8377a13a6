"""What a sweep leaves behind: JSON, CSV, Markdown and one HTML file."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from l2o_splat.bench.command import write_all
from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.markdown import summary_markdown
from l2o_splat.bench.measures import Results
from l2o_splat.bench.pictures import ERROR_COLOURS, error_map, find_pictures, save_picture, shown_views
from l2o_splat.bench.report import report_html
from l2o_splat.bench.results import CSV_COLUMNS, csv_text, read_results, write_results
from l2o_splat.bench.sweep import RUNS_NAME
from l2o_splat.bench.tables import all_tables, summary
from tests.bench.logs import make_run, make_spec, two_scene_results, write_log

REASON = "splatfacto needs a CUDA device for gsplat's rasterizer, and this machine has none."


VOID = {"meta", "br", "img", "input", "link"}


class Page(HTMLParser):
    """Rows of every table, text of scripts, addresses, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tables, self.data, self.addresses, self.in_data = [], {}, "", [], False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = values.get("id")
        if tag == "tr":
            self.tables.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.tables[self.section][-1].append("")
        self.in_data = values.get("id") == "data"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.in_data = False

    def handle_data(self, text):
        if self.in_data:
            self.data += text
        if {"td", "th"} & set(self.open):
            self.tables[self.section][-1][-1] += text


@pytest.fixture
def results(tmp_path):
    results = two_scene_results(tmp_path)
    unavailable = [
        make_run(
            tmp_path,
            make_spec(scene, "splatfacto", seed),
            step_seconds=[],
            quality={},
            status="unavailable",
            reason=REASON,
        )
        for scene in ("fern", "fox")
        for seed in range(2)
    ]
    return Results(results.environment, results.runs + unavailable)


def rows_of(table):
    return {(row[0].text, row[1].text): dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_results_json_has_the_promised_format(tmp_path, results):
    write_results(results, tmp_path)
    values = json.loads((tmp_path / "results.json").read_text())
    assert list(values) == ["environment", "runs"]
    run = values["runs"][0]
    promised = ["scene", "method", "seed", "status", "num_gaussians", "peak_memory_mib", "step_seconds", "curve"]
    assert list(run)[: len(promised)] == promised
    assert (run["scene"], run["method"], run["seed"], run["status"]) == ("fern", "adam", 0, "ok")
    assert run["step_seconds"] == {"total": 1.0, "render": 0.5, "backward": 0.375, "update": 0.125}
    quality = {"psnr": 12.0, "ssim": 0.12, "lpips": 1 / 12, "cc_psnr": None}
    scene = {"num_gaussians": 1002, "needles": 0.02}
    assert run["curve"][1] == {"step": 2, "seconds": 2.5, "other_seconds": 5.0} | quality | scene
    assert (run["clock"], run["seconds"], run["other_seconds"]) == ("wall", 4.5, 9.0)
    assert values["runs"][-1]["curve"] == []
    assert values["runs"][-1]["status"] == "unavailable"


def test_results_read_back_are_the_same(tmp_path, results):
    write_results(results, tmp_path)
    assert read_results(tmp_path).runs == results.runs


@pytest.mark.parametrize("text", [None, "{}", "[]", "no json", '{"environment": {}, "runs": []}'])
def test_what_is_no_report_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(BenchError, match=r"results\.json"):
        read_results(tmp_path)


def test_csv_has_a_row_per_evaluation_and_one_for_a_run_without(results):
    rows = list(csv.DictReader(io.StringIO(csv_text(results))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len(rows) == 8 * 3 + 4
    assert (rows[2]["scene"], rows[2]["step"], rows[2]["psnr"], rows[2]["seconds"]) == ("fern", "4", "14.0", "4.5")
    assert (rows[-1]["status"], rows[-1]["reason"], rows[-1]["psnr"]) == ("unavailable", REASON, "")


def test_the_summary_says_where_every_method_ended(results):
    rows = rows_of(summary(results))
    assert rows["fern", "adam"]["PSNR, last"].text == "14.50 ±0.50"
    assert rows["fern", "tuned"]["PSNR, last"].kind == "best"
    assert rows["fern", "tuned"]["lost since best"].text == "1.00"
    assert rows["fern", "tuned"]["step time ratio"].text == "2.00 x"
    assert rows["all scenes", "tuned"]["PSNR, last"].text == "18.75 ±0.25"
    assert rows["fox", "splatfacto"]["PSNR, last"].text == "unavailable"


def test_both_clocks_and_needles_stand_in_the_tables(tmp_path, results):
    """The other clock of these runs goes twice as fast."""
    rows = rows_of(summary(results))["fern", "tuned"]
    assert (rows["wall s"].text, rows["processor s"].text) == ("8.5", "17.0")
    assert rows["needles"].text == "4.0 %"
    page = Page(report_html(results, {}))
    data = json.loads(page.data)
    assert data["clocks"] == {"seconds": "wall", "other_seconds": "processor"}
    curves = data["curves"]["fern"]["tuned"]["psnr"]
    assert [point[0] for point in curves["seconds"]] == [0.5, 4.5, 8.5]
    assert [point[0] for point in curves["other_seconds"]] == [1, 9, 17]
    (head, first, *_) = page.tables["runs"]
    assert dict(zip(head, first, strict=True))["processor s"] == "9.0"


def test_the_number_of_gaussians_is_shown_where_it_changes(tmp_path, results):
    grown = rows_of(next(table for table in all_tables(results) if table.name == "num_gaussians-steps"))
    assert [grown["fern", "adam"][step].text for step in ("0", "2", "4")] == ["1,000", "1,002", "1,004"]
    for run in results.runs:
        fixed = [replace(point, num_gaussians=7) for point in run.curve]
        object.__setattr__(run, "curve", tuple(fixed))
    assert "num_gaussians-steps" not in [table.name for table in all_tables(results)]


def test_a_quality_that_was_not_measured_has_no_column(tmp_path):
    tables = all_tables(Results({}, [make_run(tmp_path, lpips=False)]))
    assert not any("LPIPS" in column for table in tables for column in table.columns)
    assert "lpips-steps" not in [table.name for table in tables]


def test_quality_after_a_fit_of_colours_has_a_column_where_it_was_measured(tmp_path):
    run = make_run(tmp_path)
    column = "PSNR, colours fitted"
    assert column not in all_tables(Results({}, [run]))[0].columns
    object.__setattr__(run, "curve", tuple(replace(point, cc_psnr=point.psnr + 1) for point in run.curve))
    results = Results({}, [run])
    (row,) = rows_of(all_tables(results)[0]).values()
    assert row[column].text == "21.00"
    assert next(csv.DictReader(io.StringIO(csv_text(results))))["cc_psnr"] == "11.0"


def test_the_page_is_well_formed_and_holds_the_numbers_and_the_reason(results):
    page = Page(report_html(results, {}))
    summary_rows = page.tables["summary"]
    assert ["fern", "adam", "14.50 ±0.50"] in [row[:3] for row in summary_rows]
    assert ["all scenes", "tuned", "18.75 ±0.25"] in [row[:3] for row in summary_rows]
    assert len(page.tables["runs"]) == 1 + len(results.runs)
    assert sum(REASON in cell for row in page.tables["runs"] for cell in row) == 4
    steps = page.tables["psnr-steps"]
    assert steps[0] == ["Scene", "Method", "0", "2", "4"]
    assert ["fern", "tuned", "10.00", "20.50 ±0.50", "19.50 ±0.50"] in steps
    equal = {tuple(row[:2]): row for row in page.tables["equal-time"]}
    assert equal["fern", "tuned"][2:5] == ["4.5", "20.50 ±0.50", "20.50 ±0.50"]
    data = json.loads(page.data)
    assert data["curves"]["fern"]["adam"]["psnr"]["steps"][2] == [4, 14.5, 14.0, 15.0]


def test_the_page_needs_no_network(results):
    text = report_html(results, {})
    assert Page(text).addresses == []
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest", text)


def test_names_and_reasons_cannot_break_the_page(tmp_path):
    evil = "</script><b onclick='x'>&"
    run = make_run(tmp_path, make_spec(scene=evil, method=evil), status="failed", reason=evil)
    page = Page(report_html(Results({"command": evil}, [run, make_run(tmp_path)]), {}))
    assert json.loads(page.data)["scenes"][1] == evil
    assert evil in page.tables["runs"][1]


def test_pictures_are_embedded_once_and_left_out_on_demand(tmp_path):
    out = tmp_path / "out"
    specs = [make_spec(method=method) for method in ("adam", "tuned")]
    for index, spec in enumerate(specs):
        folder = out / RUNS_NAME / spec.folder_name
        write_log(folder, [1.0] * 4, {0: 10.0, 4: 14.0})
        for kind, shade in (("photograph", 0.2), ("start", 0.4), ("end", 0.6 + index / 10), ("error", 0.9)):
            save_picture(folder / "pictures" / f"000-view.{kind}.jpg", np.full((6, 8, 3), shade))
    write_all(specs, {}, out, images=True)
    text = (out / "report.html").read_text()
    data = json.loads(Page(text).data)
    (view,) = data["pictures"]["fern"]
    assert view["name"] == "000-view"
    assert view["start"]["adam"] == view["start"]["tuned"]
    assert view["end"]["adam"] != view["end"]["tuned"]
    assert len(data["blobs"]) == 5
    write_all(specs, {}, out, images=False)
    text = (out / "report.html").read_text()
    assert "data:image" not in text and 'id="pictures"' not in text


def test_markdown_lists_what_failed(results):
    text = summary_markdown(results)
    assert "`l2o bench --data fern fox`" in text
    assert "| fern | tuned | **19.50 ±0.50** |" in text
    assert f"- fox, splatfacto, seed 1: unavailable: {REASON}" in text


def test_error_maps_are_black_without_error_and_brightest_from_the_top_on():
    photograph = np.full((1, 3, 3), 0.5)
    rendered = photograph.copy()
    rendered[0, 1] += 0.25
    rendered[0, 2] -= 0.5
    colours = error_map(rendered, photograph)
    assert colours[0].tolist() == [ERROR_COLOURS[0].tolist(), *[ERROR_COLOURS[-1].tolist()] * 2]


def test_pictures_are_scaled_down_and_few(tmp_path):
    save_picture(tmp_path / "wide.jpg", np.zeros((100, 1280, 3)))
    with Image.open(tmp_path / "wide.jpg") as picture:
        assert picture.size == (640, 50)
    assert shown_views(9) == [0, 4, 8]
    assert shown_views(1) == [0]
    assert shown_views(0) == []
    assert find_pictures([("fern", "adam", tmp_path)]) == {}
