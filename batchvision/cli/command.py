"""The base class of commands: ``--debug`` after the command's name, and the command line as typed."""

from __future__ import annotations

import shlex
from typing import Any

import click

TYPED = "batchvision.typed"


class Command(click.Command):
    """A click command that takes ``--debug`` and remembers its arguments."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        debug = click.Option(["--debug"], is_flag=True, expose_value=False, hidden=True)
        self.params.append(debug)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[TYPED] = list(args)
        return super().parse_args(ctx, args)


def typed_command(
    ctx: click.Context,
    *,
    without: tuple[str, ...] = (),
    without_values: tuple[str, ...] = (),
    add: tuple[str, ...] = (),
) -> str:
    """The command line as typed, without the flags ``without``, with ``add`` at the end.

    Flags of ``without`` have no value, or ``=VALUE``. The value of flags of ``without_values`` may be the next word.
    """
    typed = list(ctx.meta[TYPED])
    kept = [
        word
        for before, word in zip(["", *typed], typed, strict=False)
        if word.split("=")[0] not in (*without, *without_values) and before not in without_values
    ]
    return shlex.join([*ctx.command_path.split(), *kept, *add])
