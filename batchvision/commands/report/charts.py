"""Charts as inline SVG. Numbers become coordinates here; the template draws nothing itself.

Colours are classes of the style sheet, so that a chart follows light and dark. Screen readers get the title of a chart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from batchvision.commands.report.values import RunPoint, TimeSpan
from batchvision.records import TICKS_PER_USD, RateSample

WIDTH, HEIGHT = 720, 150
LEFT, RIGHT, TOP, BOTTOM = 66, 8, 12, 26
FEWEST_BARS = 10  #: fewer bars leave the right side empty


def _svg(title: str, marks: Sequence[str], height: int = HEIGHT) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    return Markup(head + "".join(marks) + "</svg>")


class _Plane:
    """Coordinates of one chart: seconds to the right, values upward from 0."""

    def __init__(self, seconds: float, most: float) -> None:
        self._seconds = max(seconds, 1e-9)
        self.most = _round_up(most)

    def x(self, seconds: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, seconds / self._seconds), 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(1.0, value / self.most), 1)

    def axes(self, words: Callable[[float], str]) -> list[str]:
        marks = []
        for value in (0.0, self.most / 2, self.most):
            y = self.y(value)
            marks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
            marks.append(
                f'<text class="tick" x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{escape(words(value))}</text>'
            )
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
            at = self._seconds * share
            x = LEFT + (WIDTH - LEFT - RIGHT) * share
            marks.append(
                f'<text class="tick" x="{x:.0f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{clock_words(at)}</text>'
            )
        return marks

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        path = " ".join(f"{self.x(seconds)},{self.y(value)}" for seconds, value in points)
        return f'<polyline class="line {kind}" points="{path}"/>' if len(points) > 1 else ""

    def bar(self, begins: float, length: float, low: float, high: float, kind: str, words: str) -> str:
        x, right = self.x(begins), self.x(begins + length)
        top, bottom = self.y(high), self.y(low)
        title = f"<title>{escape(words)}</title>"
        width = max(1.0, right - x - 0.5)
        return f'<rect class="{kind}" x="{x}" y="{top}" width="{width:.1f}" height="{bottom - top:.1f}">{title}</rect>'


def answers_chart(spans: Sequence[TimeSpan]) -> Markup:
    """Answers, failed and retried attempts a minute."""
    seconds = spans[-1].begins_seconds + spans[-1].length_seconds
    to_minute = 60 / spans[0].length_seconds
    plane = _Plane(seconds, max(sum((each.answers, each.failed, each.retried)) for each in spans) * to_minute)
    marks = plane.axes(_short)
    for each in spans:
        low = 0.0
        for kind, count in (("ok", each.answers), ("bad", each.failed), ("again", each.retried)):
            if count:
                high = low + count * to_minute
                words = f"{clock_words(each.begins_seconds)}: {count:,} {_NAMES[kind]}"
                marks.append(plane.bar(each.begins_seconds, each.length_seconds, low, high, kind, words))
                low = high
    return _svg("Answers, failed and retried attempts a minute over the last run", marks)


_NAMES = {"ok": "answered", "bad": "failed", "again": "retried"}


def cost_chart(spans: Sequence[TimeSpan]) -> Markup:
    """The cost so far, in USD."""
    points, so_far = [(0.0, 0.0)], 0
    for each in spans:
        so_far += each.cost_ticks
        points.append((each.begins_seconds + each.length_seconds, so_far / TICKS_PER_USD))
    plane = _Plane(points[-1][0], max(points[-1][1], 1e-6))
    return _svg("Cost so far in USD over the last run", [*plane.axes(_short_usd), plane.line(points, "cost")])


def latency_chart(spans: Sequence[TimeSpan]) -> Markup:
    """Median and 95th percentile of the latency, in seconds."""
    timed = [each for each in spans if each.latency_95 is not None]
    seconds = spans[-1].begins_seconds + spans[-1].length_seconds
    plane = _Plane(seconds, max((each.latency_95 or 0.0 for each in timed), default=1.0))
    middle = [(each.begins_seconds + each.length_seconds / 2, each) for each in timed]
    return _svg(
        "Median and 95th percentile of the latency in seconds over the last run",
        [
            *plane.axes(_seconds),
            plane.line([(at, each.latency_95 or 0.0) for at, each in middle], "again"),
            plane.line([(at, each.latency_median or 0.0) for at, each in middle], "ok"),
        ],
    )


def rate_chart(samples: Sequence[RateSample], duration_seconds: float) -> Markup:
    """Requests sent a minute, with the rate that was allowed, pauses and 429s. The run ends within the last sample."""
    last = samples[-1]
    left_seconds = max(1.0, duration_seconds - last.begins_seconds)
    samples = [*samples[:-1], last._replace(length_seconds=min(last.length_seconds, left_seconds))]
    seconds = samples[-1].begins_seconds + samples[-1].length_seconds
    sent = [each.sent * 60 / max(each.length_seconds, 1e-9) for each in samples]
    allowed = [(each.rate_per_second or 0.0) * 60 for each in samples]
    plane = _Plane(seconds, max(*sent, *allowed, 1.0))
    marks = plane.axes(_short)
    for each, rate in zip(samples, sent, strict=True):
        if each.paused_seconds:
            words = f"{clock_words(each.begins_seconds)}: paused for {each.paused_seconds:,.0f} s"
            pause = min(each.paused_seconds, seconds - each.begins_seconds)
            marks.append(plane.bar(each.begins_seconds, pause, 0, plane.most, "pause", words))
        words = f"{clock_words(each.begins_seconds)}: {each.sent:,} sent, {each.rate_limited:,} answers 429"
        marks.append(plane.bar(each.begins_seconds, each.length_seconds, 0, rate, "ok", words))
        if each.rate_limited:
            share = each.rate_limited / max(each.sent, 1)
            marks.append(plane.bar(each.begins_seconds, each.length_seconds, 0, rate * min(1.0, share), "again", words))
    known = [(each.begins_seconds + each.length_seconds, rate) for each, rate in zip(samples, allowed, strict=True)]
    marks.append(plane.line([point for point in known if point[1]], "limit"))
    return _svg("Requests sent a minute, the allowed rate, pauses and answers 429 over the last run", marks)


def runs_chart(runs: Sequence[RunPoint]) -> Markup:
    """Cost of the last runs, one bar each."""
    costs = [(each.cost_ticks or 0) / TICKS_PER_USD for each in runs]
    plane = _Plane(float(max(len(runs), FEWEST_BARS)), max(*costs, 1e-6))
    marks = plane.axes(_short_usd)[:6]  # without times
    for place, (each, cost) in enumerate(zip(runs, costs, strict=True)):
        kind = "ok" if each.exit_code == 0 else "again" if each.exit_code in (3, 4, 6) else "bad"
        words = f"{each.started_at:%Y-%m-%d %H:%M}: {_usd(cost)}, {each.rows_completed:,} rows, exit {each.exit_code}"
        marks.append(plane.bar(place + 0.1, 0.8, 0, max(cost, plane.most / 100), kind, words))
    return _svg("Cost of the last runs in USD", marks)


# ---------------------------------------------------------------------------------- words


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ..., so that ticks are short."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 < value:
        power *= 10
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999)


def _short(value: float) -> str:
    """At most 5 characters below a million: an axis has no room for more."""
    if value >= 10_000:
        return f"{value / 1000:,.3g}k" if value < 1e6 else f"{value / 1e6:,.3g}M"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _short_usd(value: float) -> str:
    return f"${_short(value)}" if value >= 10 or not value else f"${value:.4g}"


def _usd(value: float) -> str:
    return f"${value:,.2f}" if value >= 1 or not value else f"${value:.4g}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def clock_words(seconds: float) -> str:
    """``0:00``, ``12:30``, ``2:05:00`` after the start."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
