"""``transmamba ablate``: what each part of the method does, and how much data it saves."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from transmamba.ablate import ablate, prepare_grid
from transmamba.ablation_report import TABLE, claims, rich_table
from transmamba.commands.parsing import Options, parse_run, refusing, use_threads
from transmamba.progress import Bar


@dataclasses.dataclass(frozen=True)
class AblateOptions(Options):
    """Variants of a run over seeds. All other options are those of the base, as in `transmamba adapt`.

    Attributes:
        only: Variants to run, names or patterns such as "data-*"; all if not given.
        seeds: Seeds of teacher, student and order of the data.
    """

    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


def run(arguments: list[str], console: Console) -> int:
    """Run what is missing, show the table, and what it says of the paper's claim."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    options = parse_run(arguments, "ablate", AblateOptions)
    use_threads(options.run.threads)
    with refusing():
        grid = prepare_grid(options.run, options.only, options.seeds, options.overwrite)
    for name, reason in grid.left_out.items():
        say(f"{name} is left out: {reason}")
    with Bar(console) as bar:
        content = ablate(grid, bar, say)
    console.print(rich_table(content))
    for line in (*claims(content), f"Page, curves and numbers: {grid.folder / TABLE}"):
        say(line)
    return 0
