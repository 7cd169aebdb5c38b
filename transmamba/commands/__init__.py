"""What the commands that need torch do, one module each; :mod:`transmamba.cli` picks one."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence

from rich.console import Console

from transmamba import processes
from transmamba.checkpoint import CheckpointError
from transmamba.cli import fail
from transmamba.commands.parsing import BadInputError, reason
from transmamba.interrupt import Interrupted
from transmamba.train import TrainingError


def run(command: str, arguments: Sequence[str]) -> int:
    """Run the command of this name, the ``run`` of its module, and return the exit code."""
    console = Console(quiet=not processes.is_first())
    try:
        return importlib.import_module(f"transmamba.commands.{command}").run(list(arguments), console)
    except (BadInputError, CheckpointError) as error:
        return fail(str(error), 2)
    except TrainingError as error:
        return fail(str(error), 1)
    except BrokenPipeError:  # whoever read our output, such as `head`, has seen enough
        raise
    except OSError as error:
        return fail(reason(error), 1)
    except KeyboardInterrupt as stopped:
        again = shlex.join(["transmamba", command, *(a for a in arguments if a != "--overwrite")])
        what = str(stopped) if isinstance(stopped, Interrupted) else "stopped"
        console.print(f"\n{what}; go on with:\n  {again}", highlight=False, soft_wrap=True)
        return 130
