"""The files ``results.json`` and ``results.csv``, with every number of every run."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.measures import Results
from l2o_splat.bench.run import Run
from l2o_splat.files import write_text_whole

JSON_NAME, CSV_NAME = "results.json", "results.csv"

CSV_COLUMNS = (
    "scene",
    "method",
    "seed",
    "status",
    "reason",
    "clock",
    "peak_memory_mib",
    "seconds_per_step",
    "step",
    "seconds",
    "other_seconds",
    "num_gaussians",
    "needles",
    "psnr",
    "ssim",
    "lpips",
    "cc_psnr",
)


def write_results(results: Results, out: Path) -> None:
    """Write both files to the folder of a report."""
    values = {"environment": results.environment, "runs": [run.to_json() for run in results.runs]}
    write_text_whole(out / JSON_NAME, json.dumps(values, indent=1, allow_nan=False) + "\n")
    write_text_whole(out / CSV_NAME, csv_text(results))


def read_results(out: Path) -> Results:
    """Read ``results.json`` from the folder of a report, or by its own path.

    Raises:
        BenchError: If there is none, or it is not a report of ``l2o bench``.
    """
    path = out / JSON_NAME if out.is_dir() else out
    try:
        values = json.loads(path.read_text())
        results = Results(values["environment"], [Run.from_json(run) for run in values["runs"]])
    except OSError as error:
        raise BenchError(
            f"{path} cannot be read ({error.strerror}); give the --out folder of an `l2o bench`."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is not a report of `l2o bench` ({type(error).__name__}: {error}).") from error
    if not results.runs:
        raise BenchError(f"{path} holds no runs.")
    return results


def csv_text(results: Results) -> str:
    """Write one row per evaluation, and one row without numbers for a run that has no evaluation."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for run in results.runs:
        common = {name: getattr(run, name) for name in CSV_COLUMNS[:7]}
        common["seconds_per_step"] = run.step_seconds.get("total")
        writer.writerows(
            [common | {name: getattr(point, name) for name in CSV_COLUMNS[8:]} for point in run.curve] or [common]
        )
    return text.getvalue()
