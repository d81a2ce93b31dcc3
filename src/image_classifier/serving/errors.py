"""Why a request gets no prediction, in the form of MLflow's own errors."""

import json
from http import HTTPStatus

CODES = {
    400: "BAD_REQUEST",
    404: "ENDPOINT_NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "REQUEST_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
}


class Refusal(Exception):
    """A request is answered with an error status; the text says what was expected."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """Store the status, the message, and additional headers of the answer."""
        super().__init__(message)
        self.status = status
        self.headers = headers or {}

    @property
    def content(self) -> bytes:
        """The body of the answer, in JSON."""
        code = CODES.get(self.status, HTTPStatus(self.status).name)
        return json.dumps({"error_code": code, "message": str(self)}).encode()


class Disconnected(Exception):
    """The client disconnected."""
