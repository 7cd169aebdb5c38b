"""``transmamba teach``: a teacher alone."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

from rich.console import Console

from transmamba.commands.parsing import Options, parse_run, refusing, use_threads
from transmamba.progress import Bar
from transmamba.tasks import load_task
from transmamba.teach import build_teacher, teach


def run(arguments: list[str], console: Console) -> int:
    """Train or fine-tune a teacher, and say how to use it."""
    config = parse_run(arguments, "teach", Options).run
    use_threads(config.threads)
    with refusing():
        if config.teacher.path is not None:
            config = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, fine_tune=True))
        task = load_task(config)
        build_teacher(config, task)
    with Bar(console) as bar:
        taught = teach(config, task, Path(config.out_dir) if config.out_dir else None, bar)
    for line in (
        f"teacher {task.metric.text(taught.reached)}, {taught.origin}, in {taught.folder}",
        f"Use it: transmamba adapt --data {config.data} --teacher.path {shlex.quote(taught.folder)}",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return 0
