"""What a run prints, and what of nerfstudio and others it leaves out."""

import importlib
import inspect
import json
import re
import warnings

import pytest
from nerfstudio.scripts.train import main
from nerfstudio.utils.rich_utils import CONSOLE

from l2o_splat.plugin.console import LEFT_OUT, NO_DOWNSCALING, quiet_console
from l2o_splat.plugin.step_table import SECONDS_BETWEEN_ROWS, StepTable, StepTableConfig
from l2o_splat.plugin.third_party_warnings import silence_third_parties
from l2o_splat.progress import RunProgress, read_progress
from tests.plugin.captures import method_config
from tests.plugin.console import printed


def test_ns_train_says_once_what_a_user_wants_to_know(tiny_capture, tmp_path, capsys, recwarn):
    config = method_config(tiny_capture, tmp_path, "learn2splat", steps=3)
    config.logging.local_writer.enable = True
    main(config)
    output = capsys.readouterr()
    lines, text = output.out.splitlines(), " ".join(output.out.split())
    assert len(lines) < 30, "something long was printed"
    assert text.count("random:0 (") == 1 and re.search(r"with weights random:0 \([\d.]+ [kM]B, licence none\)", text)
    rows = [line.split() for line in lines if re.match(r"\s+\d/3\s", line)]
    assert [row[0] for row in rows] == ["1/3", "3/3"] and rows[-1][1] == "100%" and " held out " in text
    last = read_progress(config.get_base_dir())
    assert f"{last.loss:.4f}" in rows[-1] and f"{last.psnr:.2f}" in rows[-1] and "60" in rows[-1]
    assert text.count("After 3 steps: PSNR") == 1 and "config.yml" in text
    for _, line in LEFT_OUT:
        assert line not in text
    for noise in ("_target=", "ETA (time)", "profiling", NO_DOWNSCALING):
        assert noise not in text
    assert not [warning for warning in recwarn if "torch.cuda.amp" in str(warning.message)]


@pytest.mark.parametrize(("module", "line"), LEFT_OUT)
def test_what_is_left_out_is_what_nerfstudio_prints(module, line):
    source = inspect.getsource(importlib.import_module(module))
    assert line in source, f"{module} no longer prints this; take it out of the list, or mend it."


def test_other_lines_and_their_places_in_the_code_are_shown(capsys):
    before = CONSOLE.print, CONSOLE.log
    with quiet_console():
        CONSOLE.log(NO_DOWNSCALING)
        CONSOLE.log("Auto image downscale factor of 4")
        CONSOLE.print("[bold red]Something is wrong")
    assert (CONSOLE.print, CONSOLE.log) == before
    output = capsys.readouterr().out
    assert NO_DOWNSCALING not in output.splitlines()[0] and "test_console.py" in output.splitlines()[0]
    assert "factor of 4" in output and "Something is wrong" in output


def test_only_the_warnings_that_are_named_are_silenced():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        silence_third_parties()
        deprecated = "`torch.cuda.amp.GradScaler(args...)` is deprecated. Please use ..."
        for module in ("nerfstudio.engine.trainer", "my.code"):
            warnings.warn_explicit(deprecated, FutureWarning, "trainer.py", 137, module)
        warnings.warn_explicit("the disk is full", FutureWarning, "trainer.py", 137, "nerfstudio.engine.trainer")
    assert [str(warning.message) for warning in seen] == [deprecated, "the disk is full"]


def test_a_table_has_few_rows_but_the_last_step(capsys):
    now = [0.0]
    table = StepTable(StepTableConfig(), ["Viewer at: http://localhost:7007"], now=lambda: now[0])
    for step in range(1, 41):
        table.show(
            RunProgress("training", step=step, last_step=40, share=step / 40, loss=0.5, seconds_left=40.0 - step)
        )
        table.write_stats_log(step)
        now[0] += SECONDS_BETWEEN_ROWS / 4
    table.show(RunProgress("saving", step=40, last_step=40, share=1.0, loss=0.25, psnr_held_out=20.0, seconds_left=0.0))
    table.show(RunProgress("finished", step=40))
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "Viewer at: http://localhost:7007" and output[1].split()[:2] == ["step", "budget"]
    assert [line.split()[0] for line in output[2:]] == ["1/40", *(f"{step}/40" for step in range(5, 40, 4)), "40/40"]
    assert output[-1].split()[1:6] == ["100%", "0", "s", "0.2500", "-"] and "20.00 dB" in output[-1]


def test_a_run_without_the_table_prints_none(tiny_capture, tmp_path, capsys):
    config = method_config(tiny_capture, tmp_path, steps=2)
    main(config)
    text = printed(capsys)
    assert "s/step" not in text and "After 2 steps" in text
    assert json.loads((config.get_base_dir() / "progress.json").read_text())["phase"] == "finished"
