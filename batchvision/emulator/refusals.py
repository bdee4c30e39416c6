"""Refusals: their reasons, and the status and body that each face gives them. No I/O.

The wording is the provider's own where it is known, because clients classify by it. xAI has three shapes of bodies,
OpenRouter ``error.metadata``, OpenAI ``error.type`` and ``code``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from batchvision.emulator.faults import FaultKind
from batchvision.emulator.options import Face


class Wording(NamedTuple):
    """One reason in three dialects. A face without its own status (0) uses ``status``."""

    status: int
    xai_code: str | None  #: without a code the body is {"error": "text"}
    router_type: str | None
    openai_type: str = "invalid_request_error"
    openai_code: str | None = None
    xai_status: int = 0
    router_status: int = 0
    openai_status: int = 0


class Reason(Enum):
    """Why a request is refused."""

    NO_KEY = Wording(401, None, "authentication", openai_code="invalid_api_key")
    BAD_KEY = Wording(401, "invalid-argument", "authentication", openai_code="invalid_api_key", xai_status=400)
    FORBIDDEN = Wording(403, "permission-denied", "permission_denied")
    SAFETY = Wording(
        403,
        "permission-denied",
        "content_policy_violation",
        openai_code="content_policy_violation",
        openai_status=400,
    )
    CREDIT = Wording(
        402,
        "permission-denied",
        "payment_required",
        "insufficient_quota",
        "insufficient_quota",
        xai_status=403,
        openai_status=429,
    )
    CREDIT_429 = Wording(
        429, "Some resource has been exhausted", "payment_required", "insufficient_quota", "insufficient_quota"
    )
    PAYMENT_REQUIRED = Wording(402, None, "payment_required", "insufficient_quota", "insufficient_quota")
    MODEL = Wording(400, "invalid-argument", None, openai_code="model_not_found", openai_status=404)
    NO_PATH = Wording(404, "Some requested entity was not found", "not_found", openai_code="unknown_url")
    METHOD = Wording(405, None, "invalid_prompt")
    TIMEOUT = Wording(408, "deadline-exceeded", "timeout", "timeout")
    CONFLICT = Wording(409, "aborted", None, openai_code="conflict")
    TOO_LARGE = Wording(413, None, "payload_too_large")
    MEDIA_TYPE = Wording(415, None, "invalid_prompt", openai_code="unsupported_media_type")
    FIELD = Wording(422, None, "invalid_prompt", openai_code="invalid_type")
    INVALID = Wording(400, "invalid-argument", "invalid_prompt")
    CONTEXT = Wording(400, "invalid-argument", "context_length_exceeded", openai_code="context_length_exceeded")
    IMAGE = Wording(400, "invalid-argument", "invalid_image", "image_parse_error", "invalid_image")
    IMAGE_FORMAT = Wording(400, "invalid-argument", "unsupported_image_format", openai_code="invalid_image_format")
    IMAGE_TOO_LARGE = Wording(400, "invalid-argument", "image_too_large", openai_code="invalid_image")
    IMAGE_DOWNLOAD = Wording(400, "invalid-argument", "image_download_failed", openai_code="invalid_image_url")
    REQUESTS = Wording(429, "resource-exhausted", "rate_limit_exceeded", "requests", "rate_limit_exceeded")
    TOKENS = Wording(429, "resource-exhausted", "rate_limit_exceeded", "tokens", "rate_limit_exceeded")
    CAPACITY = Wording(429, None, "rate_limit_exceeded", "rate_limit_error", "resource_unavailable")
    SERVER = Wording(500, "internal", "server", "server_error")
    GATEWAY = Wording(502, "unavailable", "provider_unavailable", "server_error")
    UNAVAILABLE = Wording(503, "unavailable", "provider_overloaded", "service_unavailable_error")
    GATEWAY_TIMEOUT = Wording(504, "deadline-exceeded", "timeout", "server_error")
    ORIGIN_TIMEOUT = Wording(524, None, "timeout", "server_error")
    OVERLOADED = Wording(529, "unavailable", "provider_overloaded", "overloaded_error")
    ERROR_IN_200 = Wording(200, "internal", "server", "server_error")
    TICKET_FAILED = Wording(400, "internal", "server", "server_error")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal. ``headers`` are added to the usual ones."""

    reason: Reason
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def status(self, face: Face) -> int:
        wording = self.reason.value
        own = {
            Face.XAI: wording.xai_status,
            Face.OPENROUTER: wording.router_status,
            Face.OPENAI: wording.openai_status,
        }
        return own[face] or wording.status

    def is_page(self) -> bool:
        """Whether the body is the HTML page of a proxy."""
        return self.reason is Reason.ORIGIN_TIMEOUT

    def body(self, face: Face) -> bytes:
        if self.is_page():
            return page(f"{self.status(face)}: A timeout occurred")
        return json.dumps(self.document(face)).encode()

    def document(self, face: Face) -> dict[str, Any]:
        """The JSON of the refusal in the dialect of the face."""
        wording = self.reason.value
        match face:
            case Face.XAI:
                return {"error": self.message} if not wording.xai_code else self._xai(wording.xai_code)
            case Face.OPENROUTER:
                error: dict[str, Any] = {"code": self._router_code(face), "message": self.message}
                if wording.router_type:
                    error["metadata"] = {"error_type": wording.router_type, **self._router_facts()}
                return {"error": error, "user_id": "user_emulator"}
            case Face.OPENAI:
                param = "model" if self.reason is Reason.MODEL else None
                return {
                    "error": {
                        "message": self.message,
                        "type": wording.openai_type,
                        "param": param,
                        "code": wording.openai_code,
                    }
                }

    def _xai(self, code: str) -> dict[str, Any]:
        if self.reason is Reason.NO_PATH:  # xAI's second shape
            return {"error": {"code": 404, "message": self.message}}
        return {"code": code, "error": self.message}

    def _router_code(self, face: Face) -> int:
        return 500 if self.reason is Reason.ERROR_IN_200 else self.status(face)

    def _router_facts(self) -> dict[str, Any]:
        if self.reason is Reason.SAFETY:
            return {"reasons": ["violence"], "flagged_input": "...", "provider_name": "Emulator"}
        if self.reason is Reason.GATEWAY:
            return {"provider_name": "Emulator", "raw": "upstream connect error"}
        return {}


class RequestRefused(Exception):
    """Raised when a request is refused. The app turns it into a response."""

    def __init__(self, reason: Reason, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.refusal = Refusal(reason, message, headers or {})
        super().__init__(message)


def page(title: str) -> bytes:
    """The HTML page of a proxy in front of a provider."""
    return f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n".encode()


OUT_OF_CREDIT = (
    "Your team emulator has either used all available credits or reached its monthly spending limit. "
    "To continue making API requests, please purchase more credits or raise your spending limit."
)
_SAFETY = "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"

#: Refusals of REQUEST faults, without those of rate limits.
_SAID: Mapping[FaultKind, tuple[Reason, str]] = {
    FaultKind.REJECTED: (Reason.INVALID, "Invalid request: the emulator was told to refuse it."),
    FaultKind.UNAUTHORIZED: (Reason.NO_KEY, "No valid authorization was given."),
    FaultKind.FORBIDDEN: (Reason.FORBIDDEN, "The API key does not have permission to use this model."),
    FaultKind.SAFETY: (Reason.SAFETY, _SAFETY),
    FaultKind.CREDIT: (Reason.CREDIT, OUT_OF_CREDIT),
    FaultKind.CREDIT_429: (Reason.CREDIT_429, OUT_OF_CREDIT),
    FaultKind.PAYMENT_REQUIRED: (Reason.PAYMENT_REQUIRED, "Insufficient credits. Add more to continue."),
    FaultKind.NOT_FOUND: (Reason.NO_PATH, "Not found."),
    FaultKind.REQUEST_TIMEOUT: (Reason.TIMEOUT, "The request timed out."),
    FaultKind.CONFLICT: (Reason.CONFLICT, "The request conflicts with another one."),
    FaultKind.PAYLOAD_TOO_LARGE: (Reason.TOO_LARGE, "Failed to buffer the request body: length limit exceeded"),
    FaultKind.UNPROCESSABLE: (
        Reason.FIELD,
        "Failed to deserialize the JSON body into the target type: messages: invalid type",
    ),
    FaultKind.CONTEXT_TOO_LONG: (
        Reason.CONTEXT,
        "This model's maximum prompt length is 256000 but the request contains 300000 tokens.",
    ),
    FaultKind.INVALID_IMAGE: (Reason.IMAGE, "Invalid JPEG image"),
    FaultKind.RESOURCE_UNAVAILABLE: (Reason.CAPACITY, "429 Resource Unavailable"),
    FaultKind.SERVER_ERROR: (Reason.SERVER, "Internal server error"),
    FaultKind.BAD_GATEWAY: (Reason.GATEWAY, "Provider returned error"),
    FaultKind.UNAVAILABLE: (Reason.UNAVAILABLE, "Service temporarily unavailable. The model is at capacity."),
    FaultKind.GATEWAY_TIMEOUT: (Reason.GATEWAY_TIMEOUT, "The upstream request timed out."),
    FaultKind.ORIGIN_TIMEOUT: (Reason.ORIGIN_TIMEOUT, "A timeout occurred"),
    FaultKind.OVERLOADED: (Reason.OVERLOADED, "Overloaded"),
    FaultKind.ERROR_IN_200: (Reason.ERROR_IN_200, "The model failed after the request was accepted."),
    FaultKind.POLL_ERROR: (Reason.SERVER, "Internal server error"),
    FaultKind.TICKET_FAILED: (Reason.TICKET_FAILED, "Deferred completion failed due to an internal service error."),
}


def refused_by_fault(kind: FaultKind) -> RequestRefused:
    """The refusal of a REQUEST or POLL fault whose words name no model, key, URL or rate."""
    return RequestRefused(*_SAID[kind])


def bad_key(face: Face, key: str) -> RequestRefused:
    shown = f"{key[:3]}***"
    if face is Face.XAI:
        return RequestRefused(
            Reason.BAD_KEY,
            f"Incorrect API key provided: {shown}. You can obtain an API key from https://console.x.ai.",
        )
    if face is Face.OPENROUTER:
        return RequestRefused(Reason.BAD_KEY, "User not found.")
    return RequestRefused(Reason.BAD_KEY, f"Incorrect API key provided: {shown}.")


def unknown_model(face: Face, model: str) -> RequestRefused:
    match face:
        case Face.XAI:
            message = f"Model not found: {model}"
        case Face.OPENROUTER:
            message = f"{model} is not a valid model ID"
        case Face.OPENAI:
            message = f"The model `{model}` does not exist or you do not have access to it."
    return RequestRefused(Reason.MODEL, message)


def download_failed(face: Face, url: str) -> RequestRefused:
    if face is Face.OPENAI:
        return RequestRefused(Reason.IMAGE_DOWNLOAD, f"Timeout while downloading {url}.")
    return RequestRefused(Reason.IMAGE_DOWNLOAD, f"Failed to download image from {url}: request timed out.")
