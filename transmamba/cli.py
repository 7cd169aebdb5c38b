"""The command ``transmamba``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from transmamba import __version__

COMMANDS = {
    "adapt": "turn a Transformer into a Mamba: teacher, subcloning, distillation, comparison with a scratch baseline",
    "ablate": "compare variants of a run over seeds: less data, and each part of the method changed",
    "teach": "train or fine-tune a teacher alone",
    "eval": "what a saved student or teacher reaches",
    "generate": "text that a saved language model goes on with",
    "retrieve": "train towers for videos and texts from a CLIP, measure them (eval), or search with them (search)",
    "vqa": "train a student to answer questions about images, measure it (eval), or ask it something (ask)",
    "doctor": "versions and backends of this installation",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a failure, 2 for bad input, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="transmamba",
        description="Pre-trained Transformers turned into Mamba.",
        epilog="`transmamba COMMAND --help` lists a command's options. Begin with: transmamba adapt --preset digits",
        usage="transmamba COMMAND [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="")
    for name, description in COMMANDS.items():
        commands.add_parser(name, help=description, add_help=False)
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    if arguments[0] == "--version":
        print(f"transmamba {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        return fail(f"unknown command {arguments[0]!r}; commands: {', '.join(COMMANDS)}", 2)
    # Imported here, not above: help needs no torch, and the doctor none of the extras.
    try:
        if arguments[0] == "doctor":
            from transmamba import doctor

            return doctor.run(arguments[1:])
        from transmamba import commands as implementation

        return implementation.run(arguments[0], arguments[1:])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("transmamba"):
            raise
        return fail(f'{error.name} is not installed: pip install "transmamba[adapt]"', 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes the closed pipe once more when it exits: give it another place to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def fail(message: str, code: int) -> int:
    """Tell the user in one line, and return ``code``."""
    print(f"transmamba: error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
