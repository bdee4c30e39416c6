"""``batchvision completion SHELL``: the completion script of a shell."""

from __future__ import annotations

import click

from batchvision.cli.command import Command
from batchvision.cli.output import write


@click.command(cls=Command, name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands, options and files.

    \b
    bash, in ~/.bashrc:                     eval "$(batchvision completion bash)"
    zsh, in ~/.zshrc, after compinit:       eval "$(batchvision completion zsh)"
    fish, in ~/.config/fish/config.fish:    batchvision completion fish | source
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    if script is None:
        raise RuntimeError(f"click has no completion for {shell}")
    write(script(ctx.find_root().command, {}, "batchvision", "_BATCHVISION_COMPLETE").source())
