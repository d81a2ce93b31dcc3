"""HTTP/1.1 with limits on the time that a client takes."""

import asyncio
from asyncio import TimerHandle
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from image_classifier.serving.errors import Refusal


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
            content = refusal.content
            headers = {
                "content-type": "application/json",
                "content-length": str(len(content)),
                "connection": "close",
            }
            response = h11.Response(
                status_code=refusal.status,
                headers=list(headers.items()),
                reason=HTTPStatus(refusal.status).phrase.encode(),
            )
            for event in (response, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
        else:
            self.transport.abort()
