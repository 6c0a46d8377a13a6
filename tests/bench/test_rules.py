"""The suite ``rules``: what it runs, and leads, losses and prices on results whose numbers can be checked by hand."""

from dataclasses import asdict
from pathlib import Path

import pytest

from l2o_splat.bench.command import bench
from l2o_splat.bench.markdown import summary_markdown
from l2o_splat.bench.measures import Results, last
from l2o_splat.bench.methods import find_method
from l2o_splat.bench.report import report_html
from l2o_splat.bench.results import read_results
from l2o_splat.bench.run import Point, Run
from l2o_splat.bench.suites.leads import Mark, leads, losses, marks, price
from l2o_splat.bench.suites.rules import DENSE, SPARSE, rule_groups, suite_rules, with_built_in
from l2o_splat.bench.suites.rules_tables import rules_tables
from l2o_splat.plugin.bench.config import describe, method_config
from l2o_splat.plugin.run_plan import resolve
from l2o_splat.scenes.capture_names import CaptureSource
from tests.bench.in_process import bench_in_this_process
from tests.plugin.captures import write_tiny_capture

FOUR_VIEWS, EIGHT_VIEWS = SPARSE
KINDS = {"hand-made": ["adam", "tuned"], "learned": ["learned"], "untrained": ["wide"]}


def run(scene: str, method: str, at_5: float, at_10: float, seed=0, per_step=0.1, status="ok", seconds=10.0) -> Run:
    """A run of 100 steps with evaluations after 20 steps (5 s) and 100 (the end); SSIM is PSNR / 100."""
    points = ((0, 0.0, 10.0), (20, 5.0, at_5), (100, seconds, at_10))
    curve = [Point(step, at, psnr, psnr / 100, None, other_seconds=3 + per_step * step) for step, at, psnr in points]
    reason = "" if status == "ok" else "it broke"
    return Run(
        *(scene, method, seed, status, 100, 1.0, {"total": 0.1}, tuple(curve)),
        reason=reason,
        steps=100,
        seconds=seconds,
    )


def results_of(*runs: Run, **environment) -> Results:
    facts = {"suite": "rules", "seconds": 10.0, "steps": None, **KINDS} | environment
    return Results(facts, list(runs))


@pytest.fixture
def results() -> Results:
    """tuned is the best hand-made rule at 5 s (mean 21 and 20), adam at 10 s (23 and 22).

    The learned rule leads by 2 and -1 dB at 5 s, by 0 and -0.5 at 10 s.
    """
    return results_of(
        *(run("rules-4v/fern", "adam", 20, 24), run("rules-4v/fox", "adam", 20, 22)),
        *(run("rules-4v/fern", "tuned", 21, 22), run("rules-4v/fox", "tuned", 21, 22)),
        *(run("rules-4v/fern", "learned", 23, 24), run("rules-4v/fox", "learned", 20, 21.5)),
    )


def rows_of(table) -> list[dict]:
    return [dict(zip(table.columns, [entry.text for entry in row], strict=True)) for row in table.rows]


def test_a_lead_is_over_the_best_hand_made_rule_at_the_same_mark(results):
    found = {lead.mark.title: lead for lead in leads(results)}
    assert list(found) == ["5 s", "10 s", "20 steps", "100 steps"]
    early, late = found["5 s"], found["10 s"]
    assert (early.rival, early.cell.value, early.by_capture) == ("tuned", 0.5, {"fern": 2, "fox": -1})
    assert (late.rival, late.cell.value, late.by_capture) == ("adam", -0.25, {"fern": 0, "fox": -0.5})
    assert (early.worst, late.worst, early.cell.spread) == ("fox", "fox", None)


def test_losses_are_told_in_words(results):
    assert losses(leads(results)) == [
        "4 views, learned, on fox: 1.00 dB behind tuned at 5 s, 0.50 dB behind adam at 10 s, "
        "1.00 dB behind tuned after 20 steps, 0.50 dB behind adam after 100 steps."
    ]
    ahead = results_of(run("rules-dense/fern", "adam", 20, 20), run("rules-dense/fern", "learned", 20, 21))
    assert losses(leads(ahead)) == ["dense, learned: behind nowhere."]


def test_protocols_are_compared_apart(results):
    dense = [run("rules-dense/fern", "tuned", 30, 30), run("rules-dense/fern", "learned", 31, 31)]
    found = leads(results_of(*results.runs, *dense))
    assert [lead.cell.value for lead in found if lead.protocol is DENSE] == [1.0] * 4
    assert [lead.cell.value for lead in found if lead.protocol is FOUR_VIEWS] == [0.5, -0.25] * 2


def test_seeds_are_paired_and_their_mean_and_spread_are_shown():
    runs = [
        run("rules-4v/fern", method, value, value, seed)
        for method, values in {"tuned": (20, 21, 22), "learned": (21, 21, 25)}.items()
        for seed, value in enumerate(values)
    ]
    results = results_of(*runs)
    lead = leads(results)[0]
    # 1, 0 and 3 dB; their median would be 1.
    assert (lead.cell.value, lead.cell.low, lead.cell.high) == (pytest.approx(4 / 3), 0, 3)
    assert lead.by_capture == {"fern": pytest.approx(4 / 3)}
    psnr, ssim, of_leads = rules_tables(results)
    assert rows_of(of_leads)[0]["Lead, dB"] == "+1.33 ±1.50"
    assert [row["5 s"] for row in rows_of(psnr)] == ["21.00 ±1.00", "22.33 ±2.00"]
    assert rows_of(ssim)[0]["5 s"] == "0.2100 ±0.0100"


def test_a_failed_run_keeps_its_row_and_is_no_rival(results):
    others = [one for one in results.runs if (one.scene, one.method) != ("rules-4v/fox", "tuned")]
    broken = results_of(*others, run("rules-4v/fox", "tuned", 99, 99, status="failed"))
    psnr, _, of_leads = rules_tables(broken)
    assert [(row["Rule"], row["5 s"]) for row in rows_of(psnr)] == [
        ("adam", "20.00"),
        ("tuned", "failed 1/2"),
        ("learned", "21.50"),
    ]
    assert {row["Best hand-made"] for row in rows_of(of_leads)} == {"adam"}
    learned = [one for one in results.runs if one.method != "learned"]
    none = results_of(*learned, run("rules-4v/fern", "learned", 1, 1, status="failed"))
    (first, *_) = rows_of(rules_tables(none)[2])
    assert (first["Lead, dB"], first["Worst capture"]) == ("failed", "")
    assert losses(leads(none)) == []


def test_the_price_of_a_step_is_in_processor_seconds_of_the_same_capture():
    runs = [
        run(f"rules-8v/{scene}", method, 20, 20, per_step=seconds)
        for scene, method, seconds in (
            ("fern", "l2o-adam-tuned", 0.1),
            ("fox", "l2o-adam-tuned", 0.2),
            ("fern", "learned", 0.2),
            ("fox", "learned", 1.6),
        )
    ]
    # Twice and eight times; the three seconds of the start count nowhere.
    assert price(results_of(*runs), EIGHT_VIEWS, "learned").value == pytest.approx(4)
    assert price(results_of(*runs), EIGHT_VIEWS, "l2o-adam-tuned").value == pytest.approx(1)
    # Without that rule the first one is the reference.
    assert price(results_of(*runs[2:]), EIGHT_VIEWS, "learned").value == 1


def test_untrained_weights_have_a_price_and_no_quality(results):
    wide = [run(f"rules-4v/{capture}", "wide", 5, 5, per_step=1.0) for capture in ("fern", "fox")]
    psnr = rules_tables(results_of(*results.runs, *wide))[0]
    row = rows_of(psnr)[-1]
    assert (row["Rule"], row["5 s"], row["step price"]) == ("wide", "", "10.00 x")
    assert "wide: untrained weights" in psnr.explanation
    assert {lead.rule for lead in leads(results_of(*results.runs, *wide))} == {"learned"}


def test_a_run_counts_at_the_end_of_its_budget_if_it_ends_near_it():
    end = Mark(10.0, end=True)
    assert end.measure("psnr")(run("rules-4v/fern", "adam", 20, 24, seconds=9.9)) == 24
    assert end.measure("psnr")(run("rules-4v/fern", "adam", 20, 24, seconds=8.0)) is None
    # Any other time must have been reached.
    assert Mark(10.0).measure("psnr")(run("rules-4v/fern", "adam", 20, 24, seconds=9.9)) is None


def test_marks_go_as_far_as_the_budget(results):
    def titles(**budget):
        return [mark.title for mark in marks(results_of(**budget))]

    steps = ["20 steps", "100 steps", "500 steps", "2,000 steps"]
    assert titles(seconds=20.0) == ["5 s", "10 s", "20 s", *steps]
    assert titles(seconds=30.0) == ["5 s", "10 s", "20 s", "30 s", *steps]
    assert titles(seconds=None, steps=300) == ["5 s", "10 s", "20 s", "60 s", "240 s", *steps[:2], "300 steps"]
    # Those that no run has reached have no column.
    assert list(rows_of(rules_tables(results_of(*results.runs, seconds=None, steps=500))[1])[0]) == [
        *("Protocol", "Rule", "5 s", "10 s", "20 steps", "100 steps")
    ]


def test_the_tables_are_in_report_and_summary(results):
    for text in (report_html(results, {}), summary_markdown(results)):
        assert "All rules: PSNR" in text and "All rules: SSIM" in text and "All rules: leads" in text
        assert "on fox: 1.00 dB behind tuned at 5 s" in text
    assert rules_tables(results_of(*results.runs, suite="")) == []


def test_a_rule_that_some_scenes_leave_out_has_no_mean_over_all(results):
    more = results_of(*results.runs, run("rules-dense/fern", "adam", 30, 30))
    assert more.cell("all scenes", "adam", last("psnr")).value == pytest.approx((24 + 22 + 30) / 3)
    assert more.cell("all scenes", "tuned", last("psnr")).value is None


def test_every_capture_is_run_in_three_protocols():
    fern = CaptureSource("fern", ("nerfstudio-data",), "/fern")
    captures = with_built_in([fern])
    assert [capture.scene for capture in captures] == ["l2o-demo:1", "l2o-demo:2", "fern"]
    assert with_built_in(captures) == captures
    groups = rule_groups([fern], None)
    assert [(capture.scene, capture.views) for (capture,), _ in groups] == [
        ("rules-4v/fern", 4),
        ("rules-8v/fern", 8),
        ("rules-dense/fern", "all"),
    ]
    labels = [[rule.label for rule in rules] for _, rules in groups]
    assert labels[0] == labels[1] == [*labels[2], "resplat + l2o-adam-tuned", "resplat + learn2splat"]
    own = find_method("mine=learn2splat --optimizers.gaussians.optimizer.weights mine.safetensors")
    assert [rules for _, rules in rule_groups([fern], [own])] == [[own]] * 3


def test_the_rules_run_under_the_preset_fast_or_say_under_which():
    answer = describe({"methods": [asdict(rule) for rule in suite_rules()], "dataparsers": []})
    assert answer["errors"] == []
    learned = ["learn2splat", "learn2splat gain-mini", "resplat + l2o-adam-tuned", "resplat + learn2splat"]
    assert [label for label, kind in answer["kinds"].items() if kind == "learned"] == learned
    assert [label for label, kind in answer["kinds"].items() if kind == "untrained"] == ["learn2splat random:0"]
    plans = {rule.label: resolve(method_config(rule.name, rule.options)) for rule in suite_rules()}
    presets = {label: plan.preset for label, plan in plans.items()}
    assert presets.pop("adam-adc (preset adc)") == "adc"
    assert set(presets.values()) == {"fast"}
    assert plans["resplat + learn2splat"].rules == ("resplat", "learn2splat")
    assert plans["resplat + l2o-adam-tuned"].rules == ("resplat", "adam-own-scale")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"views": 6}, "--views"),
        ({"suite": ("rules", "llff")}, "another suite"),
        ({"study": "sgd"}, "--study"),
        ({"dataset": ("llff=/llff",)}, "--dataset"),
        ({"horizons": (20,)}, "--horizons"),
        ({"ply": ("other=scene.ply",)}, "--ply"),
    ],
)
def test_options_without_meaning_are_refused(tmp_path, options, named):
    with pytest.raises(SystemExit, match=f"--suite rules has protocols.*leave {named} out"):
        bench(**{"suite": ("rules",), "out": tmp_path} | options)


def test_the_suite_is_run_and_reported_by_the_command(tmp_path: Path, capsys, monkeypatch):
    bench_in_this_process(monkeypatch)
    monkeypatch.setattr("l2o_splat.bench.suites.rules.BUILT_IN", ())
    capture = write_tiny_capture(tmp_path / "tiny", num_views=20)
    status = bench(
        (str(capture),),
        ("l2o-adam-tuned", "learn2splat", "lost=learn2splat --optimizers.gaussians.optimizer.weights nowhere"),
        steps=20,
        suite=("rules",),
        out=tmp_path / "out",
        images=False,
    )
    output = capsys.readouterr().out
    assert status == 0, output
    results = read_results(tmp_path / "out")
    views = {run.scene: (run.training_views, run.held_out_views) for run in results.runs if run.ok}
    assert views == {"rules-4v/tiny": (4, 3), "rules-8v/tiny": (8, 7), "rules-dense/tiny": (17, 3)}
    assert [(lead.protocol.title, lead.rule, lead.rival, lead.mark.title) for lead in leads(results) if lead.worst] == [
        (title, "learn2splat", "l2o-adam-tuned", "20 steps") for title in ("4 views", "8 views", "dense")
    ]
    for word in ("unavailable", "All rules: leads", "4 views, learn2splat"):
        assert word in output
    assert (tmp_path / "out/summary.md").read_text().count("nowhere is neither a file or folder") == 3
