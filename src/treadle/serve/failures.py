"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from treadle.core.errors import RequestError, TreadleError
from treadle.serve.asked import asked

_log = logging.getLogger("treadle.serve")

_CODES = {
    400: "invalid_value", 401: "invalid_api_key", 403: "scope_missing", 404: "not_found", 405: "method_not_allowed", 408: "timeout",
    409: "conflict", 413: "body_too_large", 415: "unsupported_media_type", 421: "misdirected_request", 429: "queue_full",
    500: "internal_error", 503: "unavailable", 504: "deadline_exceeded",
}


def error_object(error: RequestError) -> dict[str, Any]:
    """The body's ``error`` object; the cure stands in the message, where every client shows it."""
    cures = [error.cure] if error.cure else []
    if error.status >= 500 and (one := asked()) is not None:  # so that a user can tell which one it was
        cures.append(f"this request is {one.id}")
    message = f"{error.message} ({'; '.join(cures)})" if cures else error.message
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = "server_error" if error.status >= 500 else kinds.get(error.status, "invalid_request_error")
    code = "model_not_found" if (error.status, error.field) == (404, "model") else _CODES.get(error.status, str(error.status))
    code = getattr(error, "code", code)
    return {"message": message, "type": kind, "param": error.field, "code": code}


def failure(error: RequestError) -> JSONResponse:
    """The response for ``error``."""
    headers = {}
    if error.status in (429, 503):
        headers["retry-after"] = str(getattr(error, "retry_after", 1))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status in (408, 413) or getattr(error, "closes", False):
        headers["connection"] = "close"
    return JSONResponse({"error": error_object(error)}, error.status, headers)


def told(request: Request, error: Exception) -> JSONResponse:
    """The response for any error. What went wrong on this side is for the log; the client learns that it was not at fault."""
    if isinstance(error, HTTPException):
        return _no_route(request, error)
    if isinstance(error, RequestError):
        return failure(error)
    if isinstance(error, TreadleError):
        one = asked()
        _log.error("request %s: %s", one.id if one else "unknown", error)
    return failure(RequestError("the server could not do that", status=500, cure="its log says why"))


def _no_route(request: Request, error: HTTPException) -> JSONResponse:
    cure = "docs/serve.md lists every route"
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    response = failure(RequestError(message, status=error.status_code, cure=cure))
    response.headers.update(error.headers or {})  # which methods there are
    return response
