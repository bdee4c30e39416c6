"""The command line. stdout is for data, stderr for people."""

from batchvision.cli.entry import BEGAN_AT, COMMANDS, group, main

__all__ = ["BEGAN_AT", "COMMANDS", "group", "main"]
