"""The section ``[notify]``: where the start and the end of a run are reported."""

from __future__ import annotations

from string import Formatter
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from batchvision.job.values import Flag, Section, Text

#: Names that a template may use, as ``{rows_failed}``.
PLACEHOLDERS = (
    *("words", "job", "exit_code", "stop_reason", "message", "run_id", "cost_usd", "minutes"),
    *("rows_total", "rows_completed", "rows_failed", "rows_pending", "tickets_open"),
)


class NotifySection(Section):
    """Messages about a run: to a service that expects a ping each night, and to a chat. A message that cannot be
    delivered is a warning."""

    ping_url: Text | None = Field(default=None, repr=False)
    """The address of a check (healthchecks.io, Uptime Kuma, Dead Man's Snitch). It is called at the start with
    `/start` behind it, at a good end (exit 0 or 6) as it is, and otherwise with `/fail`, with the summary as body.
    Example: `ping_url = "env:PING_URL"`."""
    url: Text | None = Field(default=None, repr=False)
    """The address that is sent a message at the end of a run (Slack, Teams, ntfy). Example: `url =
    "env:SLACK_WEBHOOK"`."""
    template: Text | dict[Text, Any] = Field(default_factory=lambda: {"text": "{words}"})
    """The message: a text, or a table that is sent as JSON. `{words}` is a sentence about the run; there are also
    `{job}`, `{exit_code}`, `{stop_reason}`, `{message}`, `{run_id}`, `{cost_usd}`, `{minutes}`, `{rows_total}`,
    `{rows_completed}`, `{rows_failed}`, `{rows_pending}` and `{tickets_open}`. Default: `{ text = "{words}" }`, for
    Slack. Example: `template = "{job}: {rows_failed} rows failed"`."""
    only_problems: Flag = False
    """Sends the message only where the exit code is not 0. Example: `only_problems = true`."""

    @field_validator("ping_url", "url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("https://", "http://", "env:")):
            raise ValueError('write an address that begins with https://, or "env:NAME"')
        return url

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for text in texts_in(self.template):
            for _, name, form, conversion in Formatter().parse(text):
                if name is not None and (name not in PLACEHOLDERS or form or conversion):
                    raise ValueError(f"template: {{{name}}} is none of {', '.join(PLACEHOLDERS)}; {{{{ }}}} are braces")
        return self


def texts_in(template: object) -> list[str]:
    """All texts of a template."""
    match template:
        case str():
            return [template]
        case dict():
            return [text for value in template.values() for text in texts_in(value)]
        case list():
            return [text for value in template for text in texts_in(value)]
    return []
