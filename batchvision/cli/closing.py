"""The closing lines of a run: answers, cost, failures and the next commands. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from batchvision.accuracy import accuracy_words
from batchvision.cli.progress import duration
from batchvision.commands.advice import ADVICE
from batchvision.errors import PAID_FAILURES, LoadFailed
from batchvision.records import RunSummary
from batchvision.ticks import bound_words, cost_words, format_usd
from batchvision.wording import counted

#: Paid failures that may succeed at the next try.
WORTH_BUYING_AGAIN = ("refused", "lost_after_read")
#: When to run again after a stop that ends by itself.
WHEN_TO_RUN_AGAIN = {
    "provider_unavailable": "when the provider answers again",
    "quota_reached": "when the quota is whole again",
    "too_many_open_files": "after `ulimit -n 4096`",
}
LOOK_AT_FAILURES = "batchvision show {output} --status failed"


class Typed(NamedTuple):
    """Command lines for the user. ``again`` is the command as typed, without flags that apply once."""

    again: str
    check: str
    reparse: str
    load: str = "batchvision load JOB"


def closing_lines(summary: RunSummary, output: Path | str, typed: Typed) -> list[str]:
    """The lines of ``run`` on stderr at its end. ``output``: a folder or URL."""
    lines = [_headline(summary)]
    for number, line in enumerate(_stopped_words(summary).splitlines()):
        title = "not loaded" if summary.stop_reason == LoadFailed.kind else "stopped"
        lines.append(f"  {title if number == 0 else '':<8}  {line}")
    lines.append(f"  answers   {output}/results   (batchvision show {output})")
    lines.append(f"  cost      {_money(summary)}")
    lines += _tokens(summary)
    if chosen := summary.fallbacks.get("by_model"):
        label = summary.config.get("answer", {}).get("labels_fallback")
        lines.append(f"  fallback  the model chose {label!r} for {counted(chosen, 'row')} of this run")
    lines += [
        f"  {'accuracy' if number == 0 else '':<8}  {words}"
        for number, words in enumerate(accuracy_words(summary.accuracy))
    ]
    lines += _redone(summary)
    lines += _failures(summary)
    lines += _left_over(summary)
    if summary.rows_with_other_kept_cells:
        rows = counted(summary.rows_with_other_kept_cells, "answered row")
        lines.append(f"  cells     {rows} have other kept cells: `{typed.reparse}` refreshes them")
    steps = next_steps(summary, output, typed)
    lines += [f"  {'next' if number == 0 else '':<8}  {step}" for number, step in enumerate(steps)]
    return lines


def _stopped_words(summary: RunSummary) -> str:
    if summary.stop_reason == "interrupted":
        return f"{summary.message or 'interrupted'}: nothing more was sent, what was in flight was waited for"
    return summary.message or ""


def _headline(summary: RunSummary) -> str:
    words = [f"{summary.rows_completed:,} of {summary.rows_total:,} rows have answers"]
    if summary.rows_failed:
        words.append(f"{summary.rows_failed:,} failed")
    if summary.rows_pending:
        words.append(f"{summary.rows_pending:,} still to do")
    return f"{summary.job}: {', '.join(words)}"


def _money(summary: RunSummary) -> str:
    if not summary.requests_sent:
        return f"nothing sent, nothing spent ({duration(summary.duration_seconds)})"
    retried = f", {summary.retries:,} of them again" if summary.retries else ""
    sent = counted(summary.requests_sent, "request")
    cost = cost_words(summary.cost_ticks, summary.unknown_cost)
    return f"{cost} for {sent}{retried}, in {duration(summary.duration_seconds)}"


def _tokens(summary: RunSummary) -> list[str]:
    """Lines about the prompt cache and about waste, if there is any."""
    lines = []
    if summary.cached_tokens and summary.prompt_tokens:
        share = summary.cached_tokens / summary.prompt_tokens
        lines.append(f"  tokens    {summary.prompt_tokens:,} in prompts, {share:.0%} of them from the cache")
    wasted = {name: each["cost_ticks"] for name, each in summary.spent.get("wasted", {}).items() if each["cost_ticks"]}
    if wasted:
        words = ", ".join(f"{format_usd(ticks)} {name}" for name, ticks in wasted.items())
        lines.append(f"  wasted    {format_usd(sum(wasted.values()))} of it: {words}")
    return lines


def _redone(summary: RunSummary) -> list[str]:
    """The line of a run with ``--redo``, or of one that collected its tickets."""
    ended = summary.rows_redone + summary.rows_redo_failed
    if not (summary.rows_to_redo or ended):
        return []
    of_all = f" of {summary.rows_to_redo:,}" if summary.rows_to_redo else ""
    words = [f"{summary.rows_redone:,}{of_all} rows were asked again and have a new answer"]
    if summary.rows_redo_failed:
        words.append(f"{summary.rows_redo_failed:,} failed and keep the older one: attempts/ has the reasons")
    if (left := summary.rows_to_redo - ended) > 0 and not summary.tickets_open:
        words.append(f"{left:,} keep the older one: name these in --redo again")
    return [f"  redone    {'; '.join(words)}"]


def _failures(summary: RunSummary) -> list[str]:
    lines = []
    by_count = sorted(summary.failures_by_kind.items(), key=lambda item: (-item[1], item[0]))
    for kind, count in by_count:
        lines.append(f"  failed    {count:,} {kind}: {ADVICE.get(kind, 'read the message')}")
    if summary.rows_quarantined:
        lines.append(
            f"  set aside {summary.rows_quarantined:,} rows failed too often; --retry-quarantined brings them back"
        )
    return lines


def _left_over(summary: RunSummary) -> list[str]:
    lines = []
    if summary.rows_kept:
        word = "keeps" if summary.rows_kept == 1 else "keep"
        lines.append(f"  kept      {counted(summary.rows_kept, 'row')} {word} an older answer, as the job says")
    if summary.rows_left and summary.is_trial and summary.command == "run":
        lines.append(f"  left      {counted(summary.rows_left, 'row')}, because of --limit or --sample: run without it")
    if summary.rows_ambiguous:
        bound = bound_words(summary.ambiguous_ticks, summary.unbounded)
        lines.append(f"  unclear   {summary.rows_ambiguous:,} rows may have been billed without an answer, {bound}")
    if summary.tickets_open:
        lines.append(
            f"  tickets   {summary.tickets_open:,} answers are still with the provider; the next run collects them"
        )
    return lines


def next_steps(summary: RunSummary, output: Path | str, typed: Typed) -> list[str]:
    """The commands to type next, the most useful first. After exit code 0 there are no steps."""
    failed = LOOK_AT_FAILURES.format(output=output)
    match summary.exit_code:
        case 0:
            return []
        case 3 if summary.rows_kept and not summary.rows_failed:
            flag = "--on-row-change" if _keeps_changed(summary) else "--on-recipe-change"
            return [f"{typed.again} {flag} redo   (asks the rows again that keep an older answer)"]
        case 3:
            return _after_failures(summary, failed, typed)
        case 4:
            return _after_own_limit(summary, failed, output, typed)
        case 5:
            return [f"{typed.check}   (then: {typed.again})"]
        case 8:
            return [f"{typed.load}   (once the destination can be had; nothing is asked again)"]
        case 7:
            return [f"{typed.again}   (after making sure that {output} can be written)"]
        case _:
            return [typed.again]


def _keeps_changed(summary: RunSummary) -> bool:
    """Whether changed rows keep their answers."""
    return bool(summary.config.get("manifest", {}).get("on_row_change") == "keep")


def _after_failures(summary: RunSummary, failed: str, typed: Typed) -> list[str]:
    """Steps for these failures. A step that buys answers again is marked."""
    kinds = summary.failures_by_kind
    unpaid = sum(count for kind, count in kinds.items() if kind not in PAID_FAILURES)
    again = {kind: kinds[kind] for kind in WORTH_BUYING_AGAIN if kind in kinds}
    held = summary.rows_pending - summary.rows_kept - summary.rows_left if _holds(summary) else 0
    steps = [failed] if kinds else []
    retries = summary.config.get("limits", {}).get("retry_failed", "unpaid")
    if retries == "unpaid" and unpaid > summary.rows_quarantined:
        steps.append(f"{typed.again}   (asks failed rows again, except those with a paid answer)")
    elif retries not in ("unpaid", "none"):
        steps.append(f"{typed.again}   (asks failed rows again, as limits.retry_failed says)")
    if "invalid_answer" in kinds:
        steps.append(f"{typed.reparse}   (after a change of [answer]: reads the stored answers again, for nothing)")
    if again:
        bought = counted(sum(again.values()), "row")
        steps.append(f"{typed.again} --retry-failed={','.join(again)}   (asks {bought} again, and pays again)")
    if held > 0:
        steps.append(
            f"{typed.again} --ambiguous retry   (sends {counted(held, 'row')} again that may have been billed)"
        )
    return steps or [typed.again]


def _holds(summary: RunSummary) -> bool:
    return bool(summary.config.get("limits", {}).get("ambiguous") == "hold")


def _after_own_limit(summary: RunSummary, failed: str, output: Path | str, typed: Typed) -> list[str]:
    if summary.stop_reason == "spend_cap_reached":
        key = (summary.stop_key or "limits.max_cost_usd").removeprefix("limits.")
        if key in ("max_cost_usd_per_day", "max_cost_usd_per_month"):
            return [f"{typed.again}   (when the {key.rpartition('_')[2]} is over)"]
        return [f"{typed.again} --{key.replace('_', '-')} {_next_cap(summary, key)}"]
    if summary.stop_reason == "too_many_failures":
        return [failed, typed.again]
    if summary.stop_reason == "accuracy_too_low":
        report = f"batchvision report {output}   (shows the wrong rows)"
        return [report, f"{typed.again}   (after a change of the prompt)"]
    when = WHEN_TO_RUN_AGAIN.get(summary.stop_reason or "")
    return [f"{typed.again}   ({when})" if when else typed.again]


def _next_cap(summary: RunSummary, key: str) -> str:
    """A cap that suffices for the pending rows at the cost of a row so far."""
    limits = summary.config.get("limits", {})
    spent = summary.cost_usd or 0.0
    cap = float(limits.get(key) or 0) or spent
    done = max(1, summary.rows_completed)
    return f"{max(cap * 2, cap + spent / done * summary.rows_pending * 1.2):.2f}"
