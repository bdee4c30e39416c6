"""Every error shape of the providers, one row each, ends in its class; messages say what was said and what to do."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from batchvision import errors
from batchvision.errors import (
    AuthenticationFailed,
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
)
from batchvision.providers import dialect
from batchvision.providers.faults import stated_limits
from batchvision.providers.rules import RULES, Facts, classify
from batchvision.records import RawAnswer

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
CREDITS = "Your team 7f0 has either used all available credits or reached its monthly spending limit. To continue ..."
RPS = "Too many requests for team 7f0. Your team's rate limit is - Requests per Second (actual/limit): 3/2"


def raw(status: int, body: Any, **headers: str) -> RawAnswer:
    content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return RawAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content, NOW)


def openrouter(code: int, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


def typed(code: int, error_type: str) -> dict[str, Any]:
    return openrouter(code, "Provider returned error", metadata={"error_type": error_type})


def openai(message: str, type: str = "invalid_request_error", code: str | None = None, param: str | None = None) -> Any:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def xai(code: str, text: str) -> dict[str, str]:
    return {"code": code, "error": text}


SHAPES: list[tuple[str, int, Any, type[Exception]]] = [
    # xAI: a bad key is a 400
    ("xai", 400, xai("invalid-argument", "Incorrect API key provided: xa***yz."), AuthenticationFailed),
    ("xai", 400, {"error": "Incorrect API key provided: xa***yz."}, AuthenticationFailed),
    ("xai", 401, {"error": "Missing or invalid Authorization header."}, AuthenticationFailed),
    ("xai", 401, b"", AuthenticationFailed),
    ("xai", 400, xai("invalid-argument", "Model not found: grok-99"), ModelNotFound),
    ("xai", 404, {"error": {"code": 404, "message": "Not found"}}, ModelNotFound),
    (
        "xai",
        404,
        xai(
            "Some requested entity was not found",
            "The model grok-99 does not exist or your team 7f0 does not have access to it. Please ensure you're using "
            "the correct API key.",
        ),
        ModelNotFound,
    ),
    ("xai", 404, b"", ModelNotFound),
    ("xai", 400, xai("invalid-argument", "Each message must have at least one content element."), RequestRejected),
    ("xai", 400, xai("invalid-argument", "Argument not supported on this model: stop"), RequestRejected),
    ("xai", 400, xai("invalid-argument", "Invalid response_format: empty enum"), RequestRejected),
    ("xai", 400, xai("invalid-argument", "Failed to decode image: not a JPEG"), RequestRejected),
    ("xai", 400, xai("invalid-argument", "Failed to fetch image from https://a.b/c.jpg"), ImageDownloadFailed),
    ("xai", 400, xai("invalid-argument", "Image download timed out after 5s"), ImageDownloadFailed),
    ("xai", 400, xai("invalid-argument", "Image size exceeds the limit of 10 MiB"), ImageTooLarge),
    (
        "xai",
        400,
        xai("invalid-argument", "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
        ContextTooLong,
    ),
    # xAI: one code for safety, credit and permission
    (
        "xai",
        403,
        xai("permission-denied", "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"),
        Refused,
    ),
    ("xai", 403, {"error": "Content violates usage guidelines. Team: 7f0"}, Refused),
    ("xai", 403, xai("permission-denied", CREDITS), OutOfCredit),
    ("xai", 429, xai("Some resource has been exhausted", CREDITS), OutOfCredit),
    ("xai", 429, xai("resource-exhausted", CREDITS), OutOfCredit),
    ("xai", 403, xai("permission-denied", "Your API key is blocked."), AuthenticationFailed),
    ("xai", 403, xai("permission-denied", "Team is not allowed to use this endpoint"), AuthenticationFailed),
    ("xai", 403, b"", AuthenticationFailed),
    ("xai", 402, b"", OutOfCredit),
    ("xai", 422, b"Failed to deserialize the JSON body into the target type: messages[0].content", RequestRejected),
    ("xai", 405, b"", ModelNotFound),
    ("xai", 415, b"Expected request with `Content-Type: application/json`", RequestRejected),
    ("xai", 413, b"", ImageTooLarge),
    ("xai", 413, b"length limit exceeded", ImageTooLarge),
    ("xai", 429, xai("resource-exhausted", RPS), RateLimited),
    ("xai", 429, b"", RateLimited),
    ("xai", 500, b"", ServerError),
    ("xai", 502, b"<html><body>Bad gateway</body></html>", ServerError),
    ("xai", 503, xai("unavailable", "Service temporarily unavailable. The model is at capacity."), ServerError),
    # any: transient statuses
    *(("openai", status, b"", ServerError) for status in (408, 409, 421, 423, 425, 499, 504, 520, 524, 529, 599)),
    # any: redirects and what is left of 4xx
    *(("openai", status, b"", ModelNotFound) for status in (300, 301, 302, 303, 304, 307, 308, 410)),
    *(("openai", status, b"", RequestRejected) for status in (400, 406, 411, 414, 417, 422, 424, 431, 451)),
    # OpenAI
    ("openai", 401, openai("Incorrect API key provided: sk-abc***.", code="invalid_api_key"), AuthenticationFailed),
    ("openai", 403, openai("Country not supported", code="unsupported_country_region_territory"), AuthenticationFailed),
    (
        "openai",
        429,
        openai(
            "You exceeded your current quota, please check your plan and billing details.", code="insufficient_quota"
        ),
        OutOfCredit,
    ),
    ("openai", 429, openai("Rate limit reached", "requests", "rate_limit_exceeded"), RateLimited),
    (
        "openai",
        429,
        openai("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 50000.", "tokens"),
        RequestRejected,
    ),
    ("openai", 404, openai("The model `gpt-99` does not exist", code="model_not_found"), ModelNotFound),
    ("openai", 400, openai("invalid model ID"), ModelNotFound),
    ("openai", 400, openai("This model's maximum context length is 128000 tokens."), ContextTooLong),
    ("openai", 400, openai("too long", code="context_length_exceeded"), ContextTooLong),
    ("openai", 400, openai("Timeout while downloading https://a.b/c.", code="invalid_image_url"), ImageDownloadFailed),
    ("openai", 400, openai("Error while downloading https://a.b/c.", code="invalid_value"), ImageDownloadFailed),
    (
        "openai",
        400,
        openai("Expected a base64-encoded data URL with an image MIME type", code="invalid_image_url"),
        RequestRejected,
    ),
    ("openai", 400, openai("You uploaded an unsupported image.", code="invalid_image"), RequestRejected),
    ("openai", 400, openai("Your request was rejected", code="content_policy_violation"), Refused),
    ("openai", 400, openai("Your request was rejected as a result of our safety system."), Refused),
    (
        "openai",
        400,
        openai("The response was filtered due to the prompt triggering Azure's content management policy."),
        Refused,
    ),
    ("openai", 500, openai("The server had an error", "server_error"), ServerError),
    ("openai", 503, openai("Overloaded", "overloaded_error"), ServerError),
    # servers that speak like OpenAI
    ("openai", 413, openai("Request too large for model", "tokens", "rate_limit_exceeded"), RequestRejected),  # Groq
    ("openai", 400, {"object": "error", "message": "maximum context length is 4096", "code": 400}, ContextTooLong),
    ("openai", 422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, RequestRejected),
    ("openai", 404, {"detail": "Not Found"}, ModelNotFound),
    ("openai", 400, {"error": {"message": "Your credit balance is too low", "type": "x"}}, OutOfCredit),  # Anthropic
    (
        "openai",
        400,
        [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}],
        AuthenticationFailed,
    ),
    (
        "openai",
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota, please check your plan and billing details.",
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [
                        {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}]},
                        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"},
                    ],
                }
            }
        ],
        RateLimited,
    ),
    (
        "openai",
        429,
        {"error": {"code": 429, "details": [{"violations": [{"quotaId": "RequestsPerDay"}]}, {"retryDelay": "3s"}]}},
        QuotaReached,
    ),
    # a quota of a day that does not say when it is whole again; one that says so is waited for, or not, by its length
    ("openrouter", 429, openrouter(429, "Rate limit exceeded: free-models-per-day"), QuotaReached),
    ("openai", 429, openai("You have reached your weekly usage limit", "requests"), QuotaReached),
    (
        "openai",
        429,
        openai("Rate limit reached on requests per day (RPD): Limit 1000, Used 1000. Please try again in 6h12m26.4s."),
        RateLimited,
    ),
    # a limit of 0 is no matter of waiting
    *(
        (
            "openai",
            429,
            [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": text, **details}}],
            expected,
        )
        for details in ({}, {"details": [{"retryDelay": "3s"}]})
        for text, expected in (
            ("Quota exceeded for metric: free_tier_requests, limit: 0", OutOfCredit),
            ("Rate limit reached: Limit 0, Used 0, Requested 1", OutOfCredit),
            ("Requests per Minute (actual/limit): 5/0", OutOfCredit),
            ("Quota exceeded, limit: 0.5", RateLimited),
            ("Rate limit reached: Limit 05", RateLimited),
        )
    ),
    # OpenRouter: error_type decides
    *(
        ("openrouter", code, typed(code, error_type), expected)
        for error_type, code, expected in (
            ("rate_limit_exceeded", 429, RateLimited),
            ("provider_overloaded", 503, ServerError),
            ("provider_unavailable", 502, ServerError),
            ("timeout", 504, ServerError),
            ("server", 500, ServerError),
            ("unmapped", 500, ServerError),
            ("invalid_image", 400, RequestRejected),
            ("image_too_large", 400, ImageTooLarge),
            ("image_too_small", 400, RequestRejected),
            ("unsupported_image_format", 400, RequestRejected),
            ("image_not_found", 404, RequestRejected),
            ("image_download_failed", 400, ImageDownloadFailed),
            ("content_policy_violation", 403, Refused),
            ("refusal", 400, Refused),
            ("context_length_exceeded", 400, ContextTooLong),
            ("string_too_long", 400, ContextTooLong),
            ("invalid_prompt", 400, RequestRejected),
            ("payload_too_large", 413, ImageTooLarge),
            ("authentication", 401, AuthenticationFailed),
            ("payment_required", 402, OutOfCredit),
            ("permission_denied", 403, AuthenticationFailed),
        )
    ),
    ("openrouter", 401, openrouter(401, "User not found."), AuthenticationFailed),
    ("openrouter", 402, openrouter(402, "Insufficient credits. Add more using ..."), OutOfCredit),
    ("openrouter", 403, openrouter(403, "Key limit exceeded (total limit)."), OutOfCredit),
    (
        "openrouter",
        403,
        openrouter(
            403,
            "google/gemini-3 requires moderation on Google.",
            metadata={"reasons": ["sexual"], "flagged_input": "...", "provider_name": "Google"},
        ),
        Refused,
    ),
    ("openrouter", 404, openrouter(404, "No endpoints found that support image input"), ModelNotFound),
    ("openrouter", 400, openrouter(400, "x-ai/grok-99 is not a valid model ID"), ModelNotFound),
    ("openrouter", 408, openrouter(408, "Request timed out"), ServerError),
    ("openrouter", 524, openrouter(524, "Edge timeout"), ServerError),
    ("openrouter", 529, openrouter(529, "Provider overloaded"), ServerError),
    (
        "openrouter",
        400,
        openrouter(400, "Provider returned error", metadata={"raw": '{"message":"maximum context length is 8192"}'}),
        ContextTooLong,
    ),
    # OpenRouter: availability is obeyed over the status
    ("openrouter", 404, openrouter(404, "Away", availability={"retryable": True, "retry_after": 9}), ServerError),
    ("openrouter", 503, openrouter(503, "Excluded", availability={"retryable": False}), ModelNotFound),
    ("openrouter", 429, openrouter(429, "Busy", availability={"retryable": True}), RateLimited),
    # an error in a 200: its own code stands for the status
    ("xai", 200, xai("invalid-argument", "Bad schema"), RequestRejected),
    ("xai", 200, xai("resource-exhausted", RPS), RateLimited),
    ("xai", 200, xai("permission-denied", CREDITS), OutOfCredit),
    ("xai", 200, xai("permission-denied", "Failed check: SAFETY_CHECK_TYPE_CSAM"), Refused),
    ("xai", 200, xai("internal", "The operation failed"), ServerError),
    ("xai", 200, xai("The service is currently unavailable", "try later"), ServerError),
    ("xai", 200, {"error": "something"}, ServerError),
    ("xai", 200, {"error": {"code": 3, "message": "bad"}}, RequestRejected),
    ("xai", 200, {"code": 8, "message": "slow down"} | {"error": {"code": 8}}, RateLimited),
    ("openrouter", 200, openrouter(429, "Rate limited upstream"), RateLimited),
    ("openrouter", 200, openrouter(502, "Provider returned error"), ServerError),
    ("openrouter", 200, openrouter(400, "Bad image") | {"choices": []}, RequestRejected),
    ("openrouter", 200, {"error": {"code": "503", "message": "Busy"}}, ServerError),
    ("openrouter", 200, typed(403, "content_policy_violation"), Refused),
    ("openrouter", 200, {"error": {"message": "fetch failed"}}, ServerError),
    ("openai", 200, {"object": "error", "message": "boom", "type": "InternalServerError", "code": 500}, ServerError),
    # words that say never are believed under any status
    *(
        ("openai", status, {"error": {"message": message, "type": "server_error"}}, ModelNotFound)
        for status in (400, 500, 503)
        for message in (
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
            "This model does not support image input",
            "qwen3 is not a multimodal model",
            "The model `llama-vision` has been decommissioned and is no longer supported.",
        )
    ),
    ("openai", 501, "", ModelNotFound),
]


@pytest.mark.parametrize(("provider", "status", "body", "expected"), SHAPES)
def test_every_error_shape_has_its_class(provider: str, status: int, body: Any, expected: type[Exception]) -> None:
    error = dialect(provider).read(raw(status, body)).error

    assert type(error) is expected, error


@pytest.mark.parametrize("status", [*range(300, 600)])
def test_every_status_without_a_body_is_in_the_closed_set(status: int) -> None:
    error = dialect("xai").read(raw(status, b"")).error

    assert isinstance(error, errors.StopRun | errors.RowFault | errors.Transient)


@pytest.mark.parametrize(
    ("message", "limits"),
    [
        (RPS, (2.0, None)),
        ("Requests per Minute (actual/limit): 130/120", (2.0, None)),
        ("Tokens per Minute (actual/limit): 65,605/16,000", (None, 16000.0)),
        ("Tokens per Second (actual/limit): 65605/100", (None, 6000.0)),
        (
            "Rate limit reached for gpt-4o in organization org-1 on requests per min (RPM): Limit 600, Used 600",
            (10.0, None),
        ),
        ("... on tokens per min (TPM): Limit: 30000, Used 29000, Requested 2000.", (None, 30000.0)),
        ("... on requests per day (RPD): Limit 200, Used 200", (None, None)),
        ("Requests per Second (actual/limit): 5/0", (None, None)),
        ("Requests per Second (actual/limit): 5/.,.", (None, None)),
        ("Slow down", (None, None)),
    ],
)
def test_a_429_states_its_limit_in_words(message: str, limits: tuple[float | None, float | None]) -> None:
    assert stated_limits(message) == limits


def test_a_rate_limit_carries_wait_and_limits() -> None:
    error = dialect("xai").read(raw(429, xai("resource-exhausted", RPS), retry_after="7")).error

    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == 7.0
    assert error.limit_per_second == 2.0


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        (openrouter(503, "Busy", availability={"retryable": True, "retry_after": 9}), {}, 9.0),
        (openrouter(503, "Busy", metadata={"retry_after_seconds": 2.5}), {}, 2.5),
        (openrouter(503, "Busy"), {"retry-after": "4"}, 4.0),
        (openrouter(503, "Busy"), {}, None),
    ],
)
def test_a_server_error_carries_the_wait_it_asks_for(body: Any, headers: dict[str, str], seconds: float | None) -> None:
    answer = RawAnswer(503, headers, json.dumps(body).encode(), NOW)
    error = dialect("openrouter").read(answer).error

    assert isinstance(error, ServerError)
    assert error.retry_after_seconds == seconds


def test_the_error_of_a_refused_key_names_its_source_and_how_to_test_it() -> None:
    error = dialect("xai").read(raw(400, xai("invalid-argument", "Incorrect API key provided: xa***yz."))).error

    assert str(error) == (
        "xai answered 400: Incorrect API key provided: xa***yz; check XAI_API_KEY; `batchvision check JOB` tests it"
    )


def test_the_error_of_missing_credit_names_the_page_to_add_credit() -> None:
    error = dialect("openrouter").read(raw(402, openrouter(402, "Insufficient credits"))).error

    assert "https://openrouter.ai/settings/credits" in str(error)


def test_the_error_of_an_unknown_model_names_the_command_that_lists_models() -> None:
    error = dialect("xai").read(raw(400, xai("invalid-argument", "Model not found: grok-99"))).error

    assert "Model not found: grok-99" in str(error)
    assert "`batchvision models --provider xai`" in str(error)


def test_the_error_of_a_redirect_names_base_url() -> None:
    error = dialect("openai").read(raw(308, b"", location="https://api.x.ai/v1/chat/completions?token=abc")).error

    assert "redirect to https://api.x.ai/v1/chat/completions?...; check provider.base_url" in str(error)
    assert "abc" not in str(error)


def test_a_message_is_short_and_on_one_line_and_holds_no_secret() -> None:
    said = (
        "Bad \x00image\r\n\x1b[31m data:image/png;base64,AAAA"
        + "A" * 3000
        + " from https://a.b/c?sig=topsecret xai-abcdefghijklmnop"
    )
    error = dialect("xai").read(raw(400, {"error": said + " x" * 500})).error

    message = str(error)
    assert message.startswith("xai answered 400: Bad image [31m data:... from https://a.b/c?... xai-***")
    assert len(message) < 340
    assert "topsecret" not in message
    assert message.isprintable()


def test_an_error_without_words_has_a_message() -> None:
    assert str(dialect("xai").read(raw(500, b"")).error) == "xai answered 500: no reason given"
    assert str(dialect("xai").read(raw(502, b"<!DOCTYPE html><html></html>")).error) == "xai answered 502: an HTML page"


def test_the_message_holds_the_upstream_error_behind_openrouters_own() -> None:
    body = openrouter(502, "Provider returned error", metadata={"raw": {"detail": "out of memory"}})

    assert 'Provider returned error ({"detail": "out of memory"})' in str(
        dialect("openrouter").read(raw(502, body)).error
    )


@pytest.mark.parametrize(
    "quoted",
    [
        "Invalid prompt: 'my API key to success'",
        "Invalid prompt: 'a model of the credits that roll'",
        "Cannot parse: 'the model could not be found in the picture'",
    ],
)
def test_words_of_a_row_quoted_in_a_400_do_not_stop_the_run(quoted: str) -> None:
    assert isinstance(dialect("xai").read(raw(400, {"error": quoted})).error, errors.RowFault)


def test_text_is_not_believed_under_a_server_error() -> None:
    assert type(dialect("xai").read(raw(500, {"error": CREDITS})).error) is ServerError


def test_every_rule_is_reachable() -> None:
    """Each rule decides at least one row of the table: none is dead."""
    used = set()
    for provider, status, body, _expected in SHAPES:
        for rule in RULES:
            probe = _facts_of(provider, status, body)
            if rule.fits(probe):
                used.add(RULES.index(rule))
                break
    assert used == set(range(len(RULES)))


def _facts_of(provider: str, status: int, body: Any) -> Facts:
    from batchvision.providers import faults, wire

    answer = raw(status, body)
    document = wire.document_of(answer.body)
    error = faults._error_object(document)
    own_status = faults._status_in(error) if status == 200 else status
    return faults._facts(answer, own_status, error, faults.error_text(document))


def test_without_any_fact_a_200_error_is_the_providers_own() -> None:
    assert classify(Facts(None, frozenset(), "", None, None)) == (ServerError, False)


# ---------------------------------------------------------------------------------- of the row, or of the run?

PAGE = "<!DOCTYPE html><html><body>Sorry, you have been blocked</body></html>"


@pytest.mark.parametrize(
    ("status", "body", "is_certain"),
    [
        (401, PAGE, True),
        (401, "", True),
        (402, "", True),
        (407, PAGE, True),
        (400, xai("invalid-argument", "Incorrect API key provided: xa***yz."), True),
        (403, openai("Invalid API key", code="invalid_api_key"), True),
        (404, openai("The model m does not exist", code="model_not_found"), True),
        (404, [{"error": {"code": 404, "status": "NOT_FOUND", "message": "model m is not found"}}], True),
        (400, openai("This model does not support image input"), True),
        (403, PAGE, False),
        (404, PAGE, False),
        (405, PAGE, False),
        (302, "", False),
        (403, {"message": "Request blocked by policy"}, False),
        (403, {"message": "invalid api key"}, False),
        (404, {"detail": "Not Found"}, False),
        (403, openai("Forbidden", "forbidden"), False),
        (500, openai("image input is not supported", "server_error"), False),
    ],
)
def test_only_the_providers_own_words_and_a_401_are_certain_to_concern_the_run(status, body, is_certain) -> None:
    error = dialect("openai").read(raw(status, body)).error

    assert isinstance(error, errors.ProviderRefuses)
    assert error.is_certain is is_certain


@pytest.mark.parametrize(
    ("status", "body"), [(401, ""), (403, PAGE), (400, xai("invalid-argument", "Incorrect API key provided"))]
)
def test_a_refused_key_names_the_jobs_own_key_source(status, body) -> None:
    speaks = dialect("xai").with_key_from("what provider.api_key_command prints")

    error = speaks.read(raw(status, body)).error

    assert "check what provider.api_key_command prints;" in str(error)
    assert "XAI_API_KEY" not in str(error)
    assert "XAI_API_KEY" in str(dialect("xai").read(raw(status, body)).error), "the shared dialect is as it was"


# ---------------------------------------------------------------------------------- waits


def test_the_message_of_a_long_wait_names_its_end() -> None:
    body = openai("Rate limit reached on requests per day (RPD): Limit 1000. Please try again in 6h12m26.4s.")
    error = dialect("openai").read(raw(429, body, retry_after="22346")).error

    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == 22_346
    assert str(error).endswith("it asks to wait until 2026-11-20 18:12 UTC")


@pytest.mark.parametrize(("remaining", "seconds"), [("0", 32_400.0), ("3", None)])
def test_a_reset_in_headers_that_the_body_quotes_is_waited_for(remaining: str, seconds: float | None) -> None:
    reset = str(round((NOW.timestamp() + 32_400) * 1000))
    quoted = {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": remaining, "X-RateLimit-Reset": reset}
    body = openrouter(429, "Rate limit exceeded", metadata={"headers": quoted})
    error = dialect("openrouter").read(raw(429, body)).error

    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == seconds


@pytest.mark.parametrize(("limit", "expected"), [("0", OutOfCredit), ("10", RateLimited)])
def test_a_limit_of_0_in_a_header_is_no_matter_of_waiting(limit: str, expected: type[Exception]) -> None:
    answer = raw(429, openai("Rate limit reached"), x_ratelimit_limit_requests=limit, retry_after="1")

    assert type(dialect("openai").read(answer).error) is expected


def test_the_message_of_a_limit_of_0_names_the_remedy() -> None:
    error = dialect("openai").read(raw(429, openai("Quota exceeded, limit: 0"))).error

    assert "choose another model, or raise the account's limit" in str(error)


@pytest.mark.parametrize(
    ("status", "body", "is_capacity"),
    [
        (429, openai("429 Resource Unavailable", code="resource_unavailable"), True),
        (429, openai("Resource unavailable", type="rate_limit_error"), True),
        (429, openai("There is no capacity for flex requests at the moment"), True),
        (498, b"", True),
        (429, openai("Rate limit reached", code="rate_limit_exceeded"), False),
        (429, b"", False),
    ],
)
def test_a_tier_without_capacity_is_no_limit_of_the_rate(status: int, body: Any, is_capacity: bool) -> None:
    error = dialect("openai").read(raw(status, body)).error
    assert isinstance(error, RateLimited)
    assert error.is_capacity is is_capacity
