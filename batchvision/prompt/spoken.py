"""Remove thoughts, fences and markup around a model's answer. Pure, and linear in the text.

Schemas and labels play no part here. Each function returns a part of the given text, never different words.
"""

from __future__ import annotations

import re

#: Tags around thoughts, as models and servers write them. The groups ``shut`` match closing tags.
_THOUGHT_MARK = re.compile(
    r"<(?P<shut>/)?(?:think|thinking|thoughts?|reasoning|analysis|scratchpad|seed:think)\s{0,4}>"
    r"|\[(?P<shut2>/)?THINK\]"
    r"|◁(?P<shut3>/)?think▷"
    r"|<\|(?:begin|(?P<shut4>end))_of_thought\|>"
    r"|<\|channel\|>(?:analysis|commentary|(?P<shut5>final))[^<]{0,40}<\|message\|>"
    r"|<(?:\|channel>thought|(?P<shut6>channel\|))>?"
    r"|<unused9(?:4|(?P<shut7>5))>",
    re.IGNORECASE,
)
_LANGUAGE = re.compile(r"[\w+.-]{0,20}[ \t]{0,8}\r?")
_FENCES = ("```", "~~~")


def without_thoughts(text: str) -> str:
    """``text`` without the model's thoughts. Thoughts without a closing tag reach to the end.

    A closing tag without an opening tag ends thoughts that began with the text: some servers put the opening tag into
    the prompt.
    """
    return _parted(text)[0]


def thoughts_in(text: str) -> str | None:
    """The model's thoughts in ``text``."""
    return _parted(text)[1].strip() or None


def _parted(text: str) -> tuple[str, str]:
    """The answer, and the thoughts."""
    kept: list[str] = []
    thoughts: list[str] = []
    start, is_thinking = 0, False
    for mark in _THOUGHT_MARK.finditer(text):
        if mark.lastgroup is None:  # it opens
            if not is_thinking:
                kept.append(text[start : mark.start()])
                start = mark.end()
            is_thinking = True
            continue
        thoughts += [text[start : mark.start()]] if is_thinking else [*kept, text[start : mark.start()]]
        if not is_thinking:
            kept.clear()
        start, is_thinking = mark.end(), False
    (thoughts if is_thinking else kept).append(text[start:])
    return "".join(kept), "".join(thoughts)


def unfenced(text: str) -> str:
    """``text`` without surrounding blanks and without a Markdown fence around the whole."""
    body = text.strip().removeprefix("\ufeff").strip()
    for fence in _FENCES:
        if len(body) > 2 * len(fence) and body.startswith(fence) and body.endswith(fence):
            inner = body[len(fence) : -len(fence)]
            first, line_end, rest = inner.partition("\n")
            return (rest if line_end and _LANGUAGE.fullmatch(first) else inner).strip()
    return body


# ---------------------------------------------------------------------------------- around a word

#: Pairs around a word: quotes, emphasis, brackets, tags of servers.
_PAIRS = (
    ("<|begin_of_box|>", "<|end_of_box|>"), ("\\boxed{", "}"), ("\\text{", "}"), ("$", "$"),
    ("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"),
    ('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("‘", "’"), ("«", "»"), ("(", ")"), ("[", "]"),
)  # fmt: skip
_TAGGED = re.compile(r"<(\w{1,20})>(.*)</\1>", re.DOTALL)
_SPECIAL = re.compile(r"(?:<\|[a-z_]{1,40}\|>|</?s>|<end_of_turn>|<eos>)\s*", re.IGNORECASE)
_BULLET = re.compile(r"(?:[-*+•>]|#{1,6})\s+")
_END_MARKS = ".!?,;:…。！？，；："
_MOST_LAYERS = 8


def unwrapped(text: str) -> str:
    """``text`` without the fence, quotes, emphasis and markup around the whole.

    Meant for short text: the caller bounds its length.
    """
    body = unfenced(text)
    for _ in range(_MOST_LAYERS):
        inner = _less_one_layer(body)
        if inner == body:
            break
        body = inner
    return body


def bare_word(text: str) -> str:
    """As :func:`unwrapped`, in lower case, without final punctuation, with single blanks. For short text."""
    body = unwrapped(text)
    for _ in range(_MOST_LAYERS):
        inner = unwrapped(body.rstrip(_END_MARKS)) or body
        if inner == body:
            break
        body = inner
    return " ".join(body.casefold().split())


def _less_one_layer(text: str) -> str:
    for opening, closing in _PAIRS:
        is_longer = len(text) > len(opening) + len(closing)
        if is_longer and text.startswith(opening) and text.endswith(closing):
            return text[len(opening) : -len(closing)].strip()
    if tagged := _TAGGED.fullmatch(text):
        return tagged[2].strip()
    if special := _SPECIAL.match(text):
        return text[special.end() :]
    last = text.rfind("<")
    if last > 0 and _SPECIAL.fullmatch(text, last):
        return text[:last].rstrip()
    bullet = _BULLET.match(text)
    return text[bullet.end() :] if bullet else text
