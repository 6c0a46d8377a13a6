"""``l2o bench`` and ``l2o bench compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table as RichTable

from l2o_splat.bench.compare import compare as find_changes
from l2o_splat.bench.compare import same_machine
from l2o_splat.bench.errors import BenchError
from l2o_splat.bench.markdown import summary_markdown
from l2o_splat.bench.measures import Results
from l2o_splat.bench.methods import Method, find_method
from l2o_splat.bench.pictures import find_pictures
from l2o_splat.bench.ply import PlyFrame, PlyScene, find_ply
from l2o_splat.bench.processes import ask
from l2o_splat.bench.report import REPORT_NAME, write_report
from l2o_splat.bench.results import read_results, write_results
from l2o_splat.bench.spec import RunSpec, SweepOptions, check_names, plan_runs
from l2o_splat.bench.suites.rules import (
    RULES,
    SECONDS,
    by_kind,
    check_rules_options,
    rule_groups,
    suite_rules,
    with_built_in,
)
from l2o_splat.bench.suites.rules_tables import rules_tables
from l2o_splat.bench.suites.studies import StudyName
from l2o_splat.bench.suites.table import beside_papers
from l2o_splat.bench.suites.work import SUITE_STEPS, PaperOptions, find_work, pairs, study_methods
from l2o_splat.bench.sweep import RUNS_NAME, read_run, run_sweep
from l2o_splat.bench.tables import Table, summary
from l2o_splat.budget.clock import ClockKind
from l2o_splat.environment import command
from l2o_splat.errors import L2OError
from l2o_splat.files import write_text_whole
from l2o_splat.scenes.capture_names import CaptureSource, find_capture
from l2o_splat.scenes.split import ViewChoice

SUMMARY_NAME = "summary.md"

DEFAULT_METHODS = ("l2o-adam", "l2o-adam-tuned")

LEFT_TO_THE_REPORT = ("lost since best", "steps", "Gaussians", "needles", "peak MiB", "ms per step")
"""Columns of the summary for which a terminal has no room."""


def bench(
    data: tuple[str, ...] = (),
    methods: tuple[str, ...] | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    clock: ClockKind = "wall",
    views: ViewChoice = "all",
    scale: float = 1.0,
    seeds: int = 1,
    horizons: tuple[int, ...] = (),
    out: Path = Path("outputs/bench"),
    images: bool = True,
    dataparser: str | None = None,
    ply: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    ply_frame: PlyFrame = "detect",
    suite: tuple[str, ...] = (),
    dataset: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    view_index: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    scenes: tuple[str, ...] = (),
    study: StudyName | None = None,
    study_weights: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    ray: str | None = None,
    cores_per_run: int | None = None,
) -> int:
    """Compare methods on captures: held-out quality after how many steps and seconds, from the same start.

    Every combination of capture, method and seed is trained in a process of its own. A run that fails keeps its row,
    with the reason; a sweep that was interrupted goes on with the same command, and what failed is tried again.

    Args:
        data: Folders of captures, or l2o-demo:SEED for a built-in procedural one.
        methods: Methods that ns-train knows, adam-adc (l2o-adam with the density control of 3DGS) and l2o-sgd; the
            first one is the baseline of ratios and of equal wall-clock. With options of ns-train, and under another
            name: 'mine=learn2splat --optimizers.gaussians.optimizer.weights FILE'. Without, l2o-adam and
            l2o-adam-tuned, or those of the study.
        steps: Training steps of each run; without, 500 (2000 in suites and studies), or as many as fit into --seconds.
            --max-num-iterations among the options of a method goes before.
        seconds: Seconds on the clock after which a run ends even if steps are left. Without --steps it is also the time
            budget that our methods plan their runs for.
        clock: What seconds are: those of the wall, or of the processors (all threads together), which are comparable
            on a busy machine with --cores-per-run 1.
        views: K for the sparse protocol (K context views by farthest-point sampling, views between them held out), all
            for the dense one (every 8th view held out), own for the split that the capture names.
        scale: Images are scaled by this factor, in memory.
        seeds: Runs per method; seeds change the order of views and random initialization.
        horizons: Run each method whose rates decay once per number of steps given here, to decay over; without, they
            decay over --steps.
        out: Folder for the report; what is finished in it is kept.
        images: Show held-out views in the report; leave them out for captures that may not be published.
        dataparser: nerfstudio's dataparser with its options in quotes, for captures that are not recognised by their
            files.
        ply: A scene of another program, as NAME=FILE, measured on the held-out views beside the methods; may be given
            several times, with one capture.
        ply_frame: Coordinates of these files: dataparser as nerfstudio exports, capture as COLMAP's or the original
            poses, transforms as transforms.json; detect takes what shows the training photographs best.
        suite: Evaluations of the papers, with their views and sizes and the published numbers beside ours;
            docs/paper-suites.md lists them. Or rules: all update rules with 4 and 8 views and dense, on built-in
            captures and on --data; without --steps and --seconds, 20 seconds a run.
        dataset: Folder of a data set of suites, as NAME=FOLDER; may be given several times.
        view_index: The paper's file of context and target views for a suite, as SUITE=FILE; may be given several times.
        scenes: Scenes of the suites; without, those of the paper, or all that are there.
        study: A study of the papers: its methods on its suites, and on --data.
        study_weights: Weights of a study, as NAME=WEIGHTS; may be given several times.
        ray: Run on the Ray cluster at this address, or auto for the one on this machine. The captures must be at the
            same paths on every node.
        cores_per_run: Cores of each run on a cluster; without, as many as the smallest node has, so that nothing
            disturbs the clock. Here: threads of each run.
    """
    console = Console()
    papers = PaperOptions(suite, dataset, view_index, scenes, study, study_weights)
    try:
        if RULES in suite:
            check_rules_options(papers, views, horizons, ply)
        steps, seconds = _budget(steps, seconds, papers)
        specs, environment = _plan(
            data,
            methods,
            papers,
            SweepOptions(steps, seconds, clock, views, scale, seeds, horizons),
            dataparser,
            _plys(ply, ply_frame),
            out,
            console,
        )
        try:
            run_sweep(specs, out, images, console, ray, cores_per_run)
        except KeyboardInterrupt:
            console.print("Interrupted; the same command goes on from here.")
        results = write_all(specs, environment, out, images)
    except L2OError as error:
        raise SystemExit(f"l2o bench: {error}") from error
    of_rules = rules_tables(results)
    for table in of_rules:
        console.print(table.title, _rich(table, ()), table.explanation, "", sep="\n", highlight=False)
    if not of_rules:
        console.print(_rich(summary(results), LEFT_TO_THE_REPORT))
    if (beside := beside_papers(results)) is not None:
        console.print(_rich(beside, ("peak GB",)), beside.explanation, highlight=False)
    console.print(f"Report: {out / REPORT_NAME}", highlight=False, soft_wrap=True)
    return int(any(run.status in ("failed", "out_of_memory", "pending") for run in results.runs))


def compare(before: tyro.conf.Positional[Path], after: tyro.conf.Positional[Path]) -> int:
    """Tell what moved by more than the seed spread between two reports.

    Args:
        before: The --out folder of one ``l2o bench``.
        after: That of another.
    """
    console = Console()
    try:
        old, new = read_results(before), read_results(after)
    except L2OError as error:
        raise SystemExit(f"l2o bench compare: {error}") from error
    changes = find_changes(old, new)
    if not same_machine(old, new):
        console.print("The machines differ: times are compared as ratios to the baseline.")
    if not changes:
        console.print("Nothing moved by more than the seed spread.")
        return 0
    table = RichTable("Scene", "Method", "Measure", title="Moved by more than the seed spread")
    for title in (str(before), str(after), "Change", "Seed spread"):
        table.add_column(title, justify="right")
    colours = {True: "green", False: "red", None: None}
    for change in changes:
        values = (change.before, change.after, change.change, change.spread)
        table.add_row(change.scene, change.method, change.measure, *values, style=colours[change.better])
    console.print(table)
    return 0


def write_all(specs: Sequence[RunSpec], environment: dict, out: Path, images: bool) -> Results:
    """Write report, JSON, CSV and Markdown from the logs in ``out``; return the results."""
    results = Results(environment, [read_run(spec, out) for spec in specs])
    write_results(results, out)
    folders = [
        (spec.scene, spec.label, out / RUNS_NAME / spec.folder_name) for spec in specs if images and spec.seed == 0
    ]
    write_report(results, out, find_pictures(folders))
    write_text_whole(out / SUMMARY_NAME, summary_markdown(results))
    return results


def _budget(steps: int | None, seconds: float | None, papers: PaperOptions) -> tuple[int | None, float | None]:
    """Steps and seconds as they were typed, or the usual ones."""
    if steps is not None or seconds is not None:
        return steps, seconds
    if RULES in papers.suites:
        return None, SECONDS
    return SUITE_STEPS if papers.suites or papers.study else 500, None


def _plys(entries: Sequence[str], frame: PlyFrame) -> dict[str, PlyScene]:
    found = [find_ply(text, frame) for text in entries]
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BenchError(f"--ply names {twice[0]} twice; every file needs a name of its own.")
    return dict(found)


def _plan(
    data: Sequence[str],
    names: Sequence[str] | None,
    papers: PaperOptions,
    options: SweepOptions,
    dataparser: str | None,
    plys: Mapping[str, PlyScene],
    out: Path,
    console: Console,
) -> tuple[list[RunSpec], dict]:
    say = partial(console.print, highlight=False, soft_wrap=True)
    methods = _methods(names, papers, out, say)
    if not (data or papers.any) or not (methods or plys):
        raise BenchError(
            "At least one capture (--data) or suite (--suite) and one method (--methods) or scene (--ply) are needed."
        )
    if plys and papers.any:
        raise BenchError("--ply is measured on captures (--data), not on suites; leave one of them out.")
    captures = [find_capture(text, dataparser) for text in data]
    of_rules = RULES in papers.suites
    if of_rules:
        captures = with_built_in(captures)
    check_names(captures, methods, plys)  # Before nerfstudio is asked, which takes ten seconds.
    suites = find_work(papers, methods, bool(captures), say) if papers.any and not of_rules else []
    with console.status("Asking nerfstudio for its methods"):
        # Options that a suite adds are ours; those that the user typed are in the methods themselves.
        answer = ask(methods, sorted({capture.dataparser for capture in captures}))
    groups: list[tuple[Sequence[CaptureSource], Sequence[Method]]]
    if of_rules:
        groups = rule_groups(captures, None if names is None else methods)
    else:
        groups = [(captures, methods)] if captures else []
    with console.status("Writing the captures of suites") as status:
        for work in suites:
            on_scene = lambda name: status.update(f"Writing the capture {name}")  # noqa: E731
            groups.append((work.captures(out, on_scene), work.methods))
    specs = [
        spec
        for captures_of, methods_of in groups
        for spec in plan_runs(captures_of, methods_of, answer["has_horizon"], options, plys)
    ]
    facts: dict = {} if papers.study is None else {"study": papers.study}
    if of_rules:
        facts = {"suite": RULES, "seconds": options.seconds, "steps": options.steps, **by_kind(answer["kinds"])}
    return specs, answer["environment"] | {"command": command(), **facts, "scale": options.scale}


def _methods(names: Sequence[str] | None, papers: PaperOptions, out: Path, say) -> list[Method]:
    named = [find_method(text) for text in names or ()]
    if papers.study is not None:
        return [*study_methods(papers.study, pairs(papers.study_weights, "--study-weights"), out, say), *named]
    if names is None and RULES in papers.suites:
        return suite_rules()
    return [find_method(text) for text in DEFAULT_METHODS] if names is None else named


def _rich(table: Table, left_out: Sequence[str]) -> RichTable:
    """Return a table for the terminal without columns for which there is no room."""
    used = [i for i, title in enumerate(table.columns) if title not in left_out]
    shown = RichTable()
    for i in used:
        is_text = all(row[i].kind == "text" for row in table.rows)
        shown.add_column(table.columns[i], justify="left" if is_text else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(f"[bold]{row[i].text}[/bold]" if row[i].kind == "best" else row[i].text for i in used))
    return shown
