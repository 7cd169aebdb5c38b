"""``transmamba adapt``: the whole way from a Transformer to a Mamba."""

from __future__ import annotations

from rich.console import Console

from transmamba.adapt import adapt, prepare
from transmamba.commands.parsing import Options, parse_run, prepare_run
from transmamba.progress import Bar
from transmamba.report import load_line, rich_table


def run(arguments: list[str], console: Console) -> int:
    """Adapt, show the table, and say how to load the student."""
    options = parse_run(arguments, "adapt", Options)
    config = options.run
    prepared = prepare_run(prepare, options, console)
    with Bar(console) as bar:
        metrics = adapt(prepared, bar, lambda line: console.print(line, highlight=False, soft_wrap=True))
    console.print(rich_table(metrics))
    console.print(f"Report and curves: {config.folder}/report.md", highlight=False, soft_wrap=True)
    console.print(load_line(config.folder), highlight=False, soft_wrap=True, markup=False)
    return 0
