"""The HTTP application around MLflow's scoring server: limits, time-outs and plain errors."""

import asyncio
import json
import logging
from asyncio import TimerHandle, timeout
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from image_classifier.config.schema import Serving
from image_classifier.serving import request_json
from image_classifier.serving.request_body import (
    Body,
    Disconnected,
    MemoryBudget,
    Message,
    Receive,
    Refusal,
    too_busy,
)

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

METHODS = {
    "/invocations": "POST",
    "/ping": "GET",
    "/health": "GET",
    "/version": "GET",
    "/drift": "GET",
}
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
LONGEST_MESSAGE = 500

logger = logging.getLogger(__name__)


class LimitedApp:
    """An ASGI application that passes on only the requests that respect the limits."""

    # answers GET /drift; runs in a thread, once at a time, and may raise a Refusal
    drift: Callable[[], bytes]

    def __init__(self, app: App, limits: Serving) -> None:
        """Store MLflow's application and the limits."""
        self.app = app
        self.drift_turn = asyncio.Semaphore(1)
        self.limits = limits
        at_once = limits.maximum_requests_at_once
        self.turns = asyncio.Semaphore(at_once)
        self.memory = MemoryBudget(at_once)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        body = Body(receive, self.limits, self.memory)
        try:
            content = await self._answer(scope, body)
        except Disconnected:
            return
        except Refusal as refusal:
            await respond(send, refusal.status, error(refusal), refusal.headers, body)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            failed = Refusal(500, "The server failed on this request; see its log.")
            await respond(send, 500, error(failed), {}, body)
        else:
            await respond(send, 200, content, {}, body)
        finally:
            body.release()

    async def _answer(self, scope: Message, body: "Body") -> bytes:
        method = METHODS.get(scope["path"])
        if method is None:
            known = ", ".join(f"{method} {path}" for path, method in METHODS.items())
            raise Refusal(404, f"Not found. Available: {known}.")
        if (scope["method"], method) == ("HEAD", "GET"):  # the server leaves out the body
            scope = {**scope, "method": "GET"}
        if scope["method"] != method:
            raise Refusal(405, f"{scope['path']} accepts only {method}.", {"allow": method})
        if method == "GET":
            body.whole = True  # its body, if there is one, is ignored
            if scope["path"] == "/drift":
                return await self._drift()
            return await self._call(scope, b"")
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise Refusal(415, "Send JSON, with the header Content-Type: application/json.")
        await body.read(int(headers.get(b"content-length", 0)))
        gone = asyncio.ensure_future(body.receive())  # ends when the client disconnects
        try:
            await self._wait(self.turns)
            try:
                if gone.done():
                    raise Disconnected
                found = await asyncio.to_thread(
                    request_json.validate, body.content, self.limits.maximum_images
                )
                if found:
                    raise Refusal(400, found)
                return await self._call(scope, bytes(body.content))
            finally:
                self.turns.release()
        finally:
            gone.cancel()

    async def _drift(self) -> bytes:
        await self._wait(self.drift_turn)
        try:
            return await asyncio.to_thread(self.drift)
        finally:
            self.drift_turn.release()

    async def _wait(self, turns: asyncio.Semaphore) -> None:
        try:
            async with timeout(self.limits.queue_seconds):
                await turns.acquire()
        except TimeoutError:
            raise too_busy(self.limits) from None

    async def _call(self, scope: Message, content: bytes) -> bytes:
        """Return the answer of MLflow's application.

        Raises:
            Refusal: it refused the request.
            RuntimeError: it failed.
        """
        messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
        status, answer = 500, bytearray()

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()  # never returns: the client waits for its answer
            raise AssertionError

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        await self.app(scope, receive, send)
        if status >= 500:
            raise RuntimeError(f"status {status}: {answer[:LONGEST_MESSAGE].decode()}")
        if status >= 400:
            raise Refusal(status, plain_message(bytes(answer)))
        return bytes(answer)


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with a limit on the time to send the headers and to read the answer.

    The limit is `timeout_keep_alive`, uvicorn's limit for idle connections.
    """

    timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the headers."""
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of the headers, unless the headers are complete."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self.timer is None:
            self._start_timer()

    def pause_writing(self) -> None:
        """Start to wait for a client that does not read its answer."""
        super().pause_writing()
        self._start_timer()

    def resume_writing(self) -> None:
        """Stop waiting for the client."""
        super().resume_writing()
        self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Send the error as JSON, then close the connection."""
        self._refuse(Refusal(400, msg))

    def _start_timer(self) -> None:
        self._stop_timer()
        self.timer = self.loop.call_later(self.timeout_keep_alive, self._too_slow)

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _too_slow(self) -> None:
        seconds = self.timeout_keep_alive
        self._refuse(Refusal(408, f"The headers did not arrive within {seconds} seconds."))

    def _refuse(self, refusal: Refusal) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = error(refusal)
            headers = headers_of(content, {"connection": "close"})
            reason = HTTPStatus(refusal.status).phrase.encode()
            response = h11.Response(status_code=refusal.status, headers=headers, reason=reason)
            for event in (response, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
        else:
            self.transport.abort()


async def respond(
    send: Send, status: int, content: bytes, headers: dict[str, str], body: Body
) -> None:
    """Send an answer; close the connection if the body of the request was not read."""
    if not body.whole:
        headers = headers | {"connection": "close"}
    start = {"type": "http.response.start", "status": status}
    await send(start | {"headers": headers_of(content, headers)})
    await send({"type": "http.response.body", "body": content, "more_body": not body.whole})
    if not body.whole:
        await body.drain()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def headers_of(content: bytes, others: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer in JSON."""
    all_headers = {"content-type": "application/json", "content-length": str(len(content))} | others
    return [(name.encode(), value.encode()) for name, value in all_headers.items()]


def error(refusal: Refusal) -> bytes:
    """Return a refusal as JSON, in the form of MLflow's own errors."""
    code = CODES.get(refusal.status, "BAD_REQUEST")
    return json.dumps({"error_code": code, "message": str(refusal)}).encode()


def plain_message(answer: bytes) -> str:
    """Return the message of MLflow's error, without the request data that precede it."""
    try:
        message = str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        message = answer[:LONGEST_MESSAGE].decode(errors="replace")
    return message.rpartition("\nError: ")[2][:LONGEST_MESSAGE]
