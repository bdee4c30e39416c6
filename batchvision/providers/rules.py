"""The rules that classify an error, as data: read from the top, the first rule that fits decides.

Text decides where codes are ambiguous: xAI uses one code for rates, credit and safety. Patterns stay narrow, because a
message may quote its row, and a row must not be able to stop the run.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from batchvision.errors import (
    AuthenticationFailed,
    BatchvisionError,
    ContextTooLong,
    ImageDownloadFailed,
    ImageTooLarge,
    ModelNotFound,
    OutOfCredit,
    QuotaReached,
    RateLimited,
    Refused,
    RequestRejected,
    ServerError,
    Transient,
)


class Facts(NamedTuple):
    """The facts of an error. ``status`` is ``None`` where a 200 holds an error without a status."""

    status: int | None
    codes: frozenset[str]  #: codes and types, as lower_case_words
    message: str
    retryable: bool | None  #: ``error.availability.retryable``, which overrides the status
    retry_after_seconds: float | None


#: Added to the codes where a 429 names a limit of 0: no wait helps.
ZERO_LIMIT = "limit_of_zero"


class Rule(NamedTuple):
    """An error class for facts that meet every given condition."""

    error: type[BatchvisionError]
    codes: frozenset[str] = frozenset()  #: at least one is among the codes
    text: re.Pattern[str] | None = None  #: found in the message
    statuses: frozenset[int | None] = frozenset()  #: the status is among them

    def fits(self, facts: Facts) -> bool:
        return (
            (not self.statuses or facts.status in self.statuses)
            and (not self.codes or not self.codes.isdisjoint(facts.codes))
            and (self.text is None or self.text.search(facts.message) is not None)
        )


def _codes_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


#: Statuses under which the text decides; ``None`` is a 200 that holds an error without a status.
_CLIENT_ERRORS: frozenset[int | None] = frozenset({400, 402, 403, 404, 413, 422, 424, 451, None})
_AND_429 = _CLIENT_ERRORS | {429}

#: gRPC codes by number; some errors hold only the number.
GRPC_NAMES = (
    *("ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists"),
    *("permission_denied", "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented"),
    *("internal", "unavailable", "data_loss", "unauthenticated"),
)

RULES: tuple[Rule, ...] = (
    # The row is refused: before credit and keys, as xAI's code for all three is permission-denied.
    Rule(
        Refused,
        codes=_codes_of(
            "flagged content_policy_violation refusal content_filter content_filtered responsibleaipolicyviolation "
            "moderation_blocked safety"
        ),
    ),
    Rule(
        Refused,
        text=_text(
            r"SAFETY_CHECK_TYPE_|violates? (?:our |the |\w+ )?(?:usage|content|safety) (?:guidelines?|polic)"
            r"|content management policy|flagged (?:for|as|by)|rejected (?:as a result of|by) (?:our|the) safety"
        ),
        statuses=_CLIENT_ERRORS,
    ),
    # No money: the same text comes under 403 and 429.
    Rule(
        OutOfCredit,
        codes=_codes_of(
            "insufficient_quota payment_required insufficient_credits insufficient_balance billing_hard_limit_reached "
            f"billing_not_active {ZERO_LIMIT}"
        ),
    ),
    Rule(QuotaReached, codes=frozenset({"quota_per_day"})),
    Rule(RateLimited, codes=frozenset({"quota_per_minute"}), statuses=frozenset({429})),
    Rule(
        OutOfCredit,
        text=_text(
            r"used all (?:of )?(?:its |your |the )?available credits"
            r"|reached (?:its|your|the) (?:monthly )?spending limit"
            r"|insufficient (?:credits?|funds|balance|quota)|exceeded your current quota|credit balance is too low"
            r"|requires more credits|key limit exceeded|hard limit has been reached|negative (?:credit )?balance"
            r"|out of credits|(?:purchase|add) (?:more |some )?credits"
        ),
        statuses=_AND_429,
    ),
    # The key.
    Rule(
        AuthenticationFailed,
        codes=_codes_of(
            "authentication authentication_error invalid_api_key invalid_authentication unauthenticated unauthorized"
        ),
    ),
    Rule(
        AuthenticationFailed,
        text=_text(
            r"(?:incorrect|invalid|missing|expired|no|unknown|disabled) api[ _-]?key"
            r"|api[ _-]?key (?:is |was |has )?(?:been )?"
            r"(?:not valid|invalid|incorrect|missing|expired|disabled|blocked|not found)"
            r"|no auth credentials|missing (?:bearer|authorization|authentication)"
        ),
        statuses=_CLIENT_ERRORS,
    ),
    # The image.
    Rule(RequestRejected, codes=_codes_of("invalid_image_url"), text=_text(r"base64|data url|mime type|unsupported")),
    Rule(ImageDownloadFailed, codes=_codes_of("image_download_failed invalid_image_url")),
    Rule(
        ImageDownloadFailed,
        text=_text(
            r"(?:while|when|error|fail(?:ed|ure)?|unable|could not|couldn't|cannot|can't|time(?:d )?out)\b.{0,40}?"
            r"\b(?:download|fetch|retriev)\w*|\b(?:download|fetch)\w*\b.{0,40}?\b(?:fail|error|time(?:d )?out)"
        ),
        statuses=frozenset({400, 422, 424}),
    ),
    Rule(ImageTooLarge, codes=_codes_of("image_too_large")),
    Rule(
        ImageTooLarge,
        text=_text(
            r"\bimages? (?:file )?(?:size|dimensions?|resolution)\b.{0,60}?(?:exceed|too (?:large|big)|larger than)"
            r"|\bimages? (?:is|are|was) too (?:large|big)"
        ),
        statuses=_CLIENT_ERRORS,
    ),
    # The length. A request that is larger than a rate limit never passes it: waiting would be for ever.
    Rule(ContextTooLong, codes=_codes_of("context_length_exceeded string_too_long")),
    Rule(RequestRejected, text=_text(r"^request too large"), statuses=frozenset({413, 429})),
    Rule(
        ContextTooLong,
        text=_text(
            r"maximum (?:context|prompt) length|context (?:length|window|size)\b.{0,60}?(?:exceed|limit|of \d|is \d)"
            r"|exceeds? the (?:model'?s? )?(?:maximum )?context|(?:prompt|input) is too long"
            r"|too many (?:input )?tokens in|input tokens? (?:count )?.{0,40}?exceeds"
        ),
        statuses=_CLIENT_ERRORS,
    ),
    Rule(
        RequestRejected,
        codes=_codes_of("invalid_image image_too_small unsupported_image_format image_not_found invalid_prompt"),
    ),
    Rule(ImageTooLarge, codes=_codes_of("payload_too_large request_too_large")),
    # The model.
    Rule(ModelNotFound, codes=_codes_of("model_not_found model_not_available some_requested_entity_was_not_found")),
    Rule(
        ModelNotFound,
        text=_text(
            r"model not found|unknown model|not a valid model|no such model|unsupported model|no endpoints found"
            r"|no allowed providers|invalid model\b"
            r"|\bmodel:? [`'\"]?[\w./:@-]{1,100}[`'\"]? (?:does not|doesn't|was not|is not|not|could not be) "
            r"(?:exist|found|available|a valid)"
        ),
        statuses=_CLIENT_ERRORS,
    ),
    # Under any status: the model takes no images, or was withdrawn.
    Rule(
        ModelNotFound,
        text=_text(
            r"image (?:input|modality|content) (?:is|are) not supported|does(?: not|n't) (?:support|accept|take) "
            r"(?:image|vision|multi-?modal)|not a (?:multi-?modal|vision) model|\bmmproj\b"
            r"|\bmodel\b.{0,80}? (?:has been|was|is) (?:decommissioned|deprecated|retired|shut down|discontinued)"
        ),
    ),
    # The provider.
    Rule(RateLimited, codes=_codes_of("rate_limit_exceeded rate_limit_error too_many_requests")),
    Rule(
        ServerError,
        codes=_codes_of(
            "provider_overloaded provider_unavailable timeout server unmapped server_error overloaded_error "
            "internal_server_error service_unavailable engine_overloaded"
        ),
    ),
)

#: Groq's status if it has no capacity for the service tier ``flex``.
FLEX_CAPACITY = 498

#: Where no rule fits, the status decides ...
BY_STATUS: dict[int, type[BatchvisionError]] = {
    401: AuthenticationFailed,
    402: OutOfCredit,
    403: AuthenticationFailed,
    404: ModelNotFound,
    405: ModelNotFound,  # the path is wrong, not the row
    407: AuthenticationFailed,  # of a proxy on the way
    408: ServerError,
    409: ServerError,
    410: ModelNotFound,
    413: ImageTooLarge,
    421: ServerError,
    423: ServerError,
    425: ServerError,
    429: RateLimited,
    FLEX_CAPACITY: RateLimited,
    499: ServerError,
    501: ModelNotFound,  # waiting does not change it
    505: ModelNotFound,
}

#: ... then its family ...
BY_HUNDRED: dict[int, type[BatchvisionError]] = {3: ModelNotFound, 4: RequestRejected}

#: ... and without a status the gRPC name. Anything else counts as a failure of the provider.
BY_GRPC_NAME: dict[str, type[BatchvisionError]] = {
    "invalid_argument": RequestRejected,
    "failed_precondition": RequestRejected,
    "out_of_range": RequestRejected,
    "invalid_request_error": RequestRejected,
    "not_found": ModelNotFound,
    "permission_denied": AuthenticationFailed,
    "resource_exhausted": RateLimited,
}


class Classified(NamedTuple):
    """The class of an error. ``by_words``: decided by codes or text, not by the status alone."""

    error: type[BatchvisionError]
    by_words: bool


def classify(facts: Facts) -> Classified:
    """The class of an error; ``retryable`` overrides the rules where the provider states it."""
    by_words = next((rule.error for rule in RULES if rule.fits(facts)), None)
    found = by_words or _by_status(facts)
    if facts.retryable is True and not issubclass(found, Transient):
        return Classified(ServerError, True)
    if facts.retryable is False and issubclass(found, Transient):
        return Classified(ModelNotFound, True)
    return Classified(found, by_words is not None)


def _by_status(facts: Facts) -> type[BatchvisionError]:
    if facts.status is None:
        names = (BY_GRPC_NAME[code] for code in sorted(facts.codes) if code in BY_GRPC_NAME)
        return next(names, ServerError)
    return BY_STATUS.get(facts.status) or BY_HUNDRED.get(facts.status // 100) or ServerError
