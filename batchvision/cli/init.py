"""``batchvision init FOLDER``: a job file for a folder of images, and the provider's key in a private file."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click

from batchvision.cli.command import Command
from batchvision.cli.output import say
from batchvision.cli.terminal import safe_line

#: The model of a first job, by provider.
DEFAULT_MODELS = {"xai": "grok-4.3", "openrouter": "x-ai/grok-4.3", "emulator": "grok-4.3"}


@click.command(cls=Command, name="init")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--provider", default="xai", show_default=True, help="xai, openrouter, openai, or an installed one.")
@click.option("--model", default=None, help="The model's name at the provider.  [default for xai: grok-4.3]")
def command(folder: Path, provider: str, model: str | None) -> None:
    """Write a job file for the images in FOLDER to this directory. Sub-folders of FOLDER become labels.

    On a terminal it asks for the provider's key, unless the environment has it, and stores it in PROVIDER.key with mode
    600. No file is replaced.
    """
    from batchvision.commands.init import facts_of, job_name, job_text, there_already, write_new
    from batchvision.errors import JobInvalid
    from batchvision.providers import dialect

    key_env = dialect(provider).default_key_env
    model = model or DEFAULT_MODELS.get(provider)
    if model is None:
        raise click.UsageError(
            f"Name the model: batchvision init {shlex.quote(str(folder))} --provider {provider} --model NAME"
        )
    facts = facts_of(folder)
    path = Path(f"{job_name(folder)}.toml")
    if path.exists():
        raise JobInvalid(there_already(path))
    key_file = None if key_env is None else _key_file(provider, key_env)
    write_new(path, job_text(folder, facts, provider, model, key_file))
    say(safe_line(f"{facts.words()}"))
    if facts.labels:
        say(f"The {len(facts.labels)} sub-folders are the labels.")
    say(f"{path} is written: look at its prompt. Next:")
    if key_env is not None and key_file is None and not os.environ.get(key_env, "").strip():
        say(f"  export {key_env}=...")
    for words in ("plan {}", "run {} --limit 20", "report {}", "run {}"):
        say(f"  batchvision {words.format(path)}")


def _key_file(provider: str, key_env: str) -> str | None:
    """The file with the key: one that is there already, or a new one with the key that the user types."""
    from batchvision.commands.init import write_key

    path = Path(f"{provider}.key")
    if path.exists():
        return path.name
    if os.environ.get(key_env, "").strip() or not sys.stdin.isatty():
        return None
    typed = click.prompt(
        f"Key of {provider} (stored in {path} for your user only; empty: set {key_env} later)",
        default="",
        hide_input=True,
        show_default=False,
        err=True,
    )
    if not typed.strip():
        return None
    write_key(path, typed)
    return path.name
