"""What moved by more than the seed spread."""

import pytest

from l2o_splat.bench.command import compare as compare_command
from l2o_splat.bench.compare import compare
from l2o_splat.bench.measures import Results
from l2o_splat.bench.results import write_results
from tests.bench.logs import make_run, make_spec


def report(folder, last, step=1.0, machine="test processor", method="adam", **log):
    """Seeds with these PSNRs at the end; a baseline beside another method."""
    runs = [
        make_run(
            folder,
            make_spec(method=method, seed=seed),
            quality={0: 10.0, 4: psnr},
            step_seconds=[step] * 4,
            machine=machine,
            **log,
        )
        for seed, psnr in enumerate(last)
    ]
    return Results({}, runs)


def moved(before, after):
    return {change.measure: change for change in compare(before, after)}


def test_less_than_the_seed_spread_is_no_change(tmp_path):
    assert moved(report(tmp_path / "a", (20.0, 20.4)), report(tmp_path / "b", (20.3, 20.6))) == {}


def test_more_than_the_seed_spread_is_a_change(tmp_path):
    changes = moved(report(tmp_path / "a", (20.0, 20.4)), report(tmp_path / "b", (20.7, 20.9)))
    assert set(changes) == {"PSNR, last", "PSNR, best", "SSIM, last", "LPIPS, last"}
    change = changes["PSNR, last"]
    assert (change.before, change.after, change.change, change.spread) == ("20.200", "20.800", "+0.600", "0.400")
    assert change.better
    assert changes["LPIPS, last"].better  # Lower is better.


def test_with_one_seed_the_spread_is_unknown(tmp_path):
    changes = moved(report(tmp_path / "a", (20.0,)), report(tmp_path / "b", (19.0,)))
    assert (changes["PSNR, last"].spread, changes["PSNR, last"].better) == ("one seed", False)
    assert moved(report(tmp_path / "c", (20.0,)), report(tmp_path / "d", (20.0,))) == {}


def test_a_run_that_fails_now_is_a_change(tmp_path):
    changes = moved(report(tmp_path / "a", (20.0, 20.4)), report(tmp_path / "b", (20.0, 20.4), status="failed"))
    assert (changes["outcome"].before, changes["outcome"].after) == ("20.200", "failed 2/2")
    assert changes["outcome"].better is False


def test_methods_in_only_one_report_are_named(tmp_path):
    changes = compare(report(tmp_path / "a", (20.0,)), report(tmp_path / "b", (20.0,), method="tuned"))
    assert [(change.method, change.before, change.after) for change in changes] == [
        ("adam", "there", "missing"),
        ("tuned", "missing", "there"),
    ]


def test_times_are_ratios_where_machines_differ(tmp_path):
    def both(folder, base, other, machine):
        first = report(folder, (20.0,), base, machine)
        return Results({}, first.runs + report(folder, (20.0,), other, machine, method="tuned").runs)

    slow = both(tmp_path / "a", 2.0, 3.0, "slow")
    assert moved(slow, both(tmp_path / "b", 0.2, 0.3, "fast")) == {}
    assert set(moved(slow, both(tmp_path / "c", 0.2, 0.6, "fast"))) == {"step time ratio to the baseline"}
    assert set(moved(slow, both(tmp_path / "d", 0.2, 0.3, "slow"))) == {"ms per step"}


def test_the_command_prints_what_moved(tmp_path, capsys):
    for name, last in (("a", (20.0, 20.4)), ("b", (22.0, 22.4))):
        write_results(report(tmp_path / name, last), tmp_path / name)
    assert compare_command(tmp_path / "a", tmp_path / "b") == 0
    output = capsys.readouterr().out
    assert "+2.000" in output
    assert compare_command(tmp_path / "a", tmp_path / "a") == 0
    assert "Nothing moved" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="cannot be read"):
        compare_command(tmp_path / "a", tmp_path / "nowhere")
