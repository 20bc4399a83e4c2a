"""The command line: `pixelis <command> [positionals] [--flags] [key=value …]`.

Exit status: 0 done; 1 a check or a figure did not hold, or a bug (with its traceback); 2 bad input, one line on
stderr; 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cluster.commands import COMMANDS, Verbs, parse
from cluster.interrupt import Interrupted
from common.errors import UserError


def cli() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(words: Sequence[str], verbs: Verbs | None = None) -> int:
    """Run one command line and return its exit status. verbs: stand in for the real ones."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    try:
        command = COMMANDS.get(words[0])
        if command is None:
            raise UserError(f"no command {words[0]!r}; there are {', '.join(COMMANDS)}")
        return command.execute(parse(command, words[1:], verbs))
    except UserError as error:
        print(f"pixelis: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"pixelis: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130


def usage() -> str:
    """What `pixelis --help` prints."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {command.name:<{width}}  {command.help}" for command in COMMANDS.values())
    return (
        "usage: pixelis <command> [positionals] [--flags] [key=value …]\n\n"
        "Vision-language agents that reason by acting on pixels: train them, keep them adapting, measure them.\n\n"
        f"{commands}\n\n"
        "key=value sets any key of the configuration (model=, hardware=, experiment= choose files).\n"
        "`pixelis <command> --help` tells more about one."
    )
