"""Tables as Markdown, for pages such as docs/benchmarks.md."""

from __future__ import annotations

from l2o_splat.bench.measures import Results
from l2o_splat.bench.suites.rules_tables import rules_tables
from l2o_splat.bench.suites.table import beside_papers
from l2o_splat.bench.tables import Table, equal_time, runs_table, summary


def summary_markdown(results: Results) -> str:
    """Write the command and environment, the two main tables, and why runs are missing."""
    environment = results.environment
    facts = ("machine", "cores", "commit", "date")
    lines = [f"`{environment.get('command', '')}`", ""]
    lines += [", ".join(f"{name} {environment[name]}" for name in facts if environment.get(name)), ""]
    papers = beside_papers(results)
    before = [*rules_tables(results), *([] if papers is None else [papers])]
    for table in (*before, summary(results), equal_time(results)):
        lines += [f"### {table.title}", "", table.explanation, "", *table_lines(table), ""]
    missing = [row for run, row in zip(results.runs, runs_table(results).rows, strict=True) if not run.ok]
    lines += [
        f"- {scene.text}, {method.text}, seed {seed.text}: {status.text}" for scene, method, seed, status, *_ in missing
    ]
    return "\n".join(lines).rstrip() + "\n"


def table_lines(table: Table) -> list[str]:
    """Write a pipe table; the best entry of a scene is bold."""
    lines = [_line(table.columns), _line("---" if i < 2 else "---:" for i in range(len(table.columns)))]
    for row in table.rows:
        lines.append(_line(f"**{entry.text}**" if entry.kind == "best" else entry.text for entry in row))
    return lines


def _line(cells) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
