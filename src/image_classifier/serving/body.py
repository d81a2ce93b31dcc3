"""The body of an HTTP request: limited in size and time, and in the memory of all requests."""

import asyncio
from asyncio import timeout
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from image_classifier.config.schema import Serving
from image_classifier.serving.errors import Disconnected, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

DRAIN_SECONDS = 2  # how long a refused body is still read, so that the client reads the answer
BLOCK = 64 * 1024  # bytes: a body takes at least so much of the memory
SMALL = 2**20  # bytes: the largest small body; most requests are one image
SMALL_BODIES = 64 * 2**20  # bytes: all small bodies together


class Memory:
    """Bytes that bodies share; who wants more than is free waits."""

    def __init__(self, size: int) -> None:
        """Set how many bytes there are."""
        self.free = size
        self.returned = asyncio.Event()

    async def take(self, size: int) -> None:
        """Wait for so many bytes."""
        while self.free < size:
            self.returned.clear()
            await self.returned.wait()
        self.free -= size

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        self.free += size
        self.returned.set()


class Body:
    """The body of one request; `whole` once all of it was received."""

    def __init__(self, receive: Receive, limits: Serving, small: Memory, large: Memory) -> None:
        """Store where the body comes from, the limits, and the memory of all requests.

        Small bodies have memory of their own, so that slow clients with large bodies delay only
        each other.
        """
        self.receive = receive
        self.limits = limits
        self.small, self.large = small, large
        self.memory, self.taken = small, 0
        self.content = bytearray()
        self.whole = False

    async def read(self, announced: int) -> bytes:
        """Read and return the body.

        Args:
            announced: Its length in bytes according to the header, or 0.

        Raises:
            Refusal: the body is too large or too slow, or waited too long for memory.
            Disconnected: the client disconnected.
        """
        largest = self.limits.maximum_body_bytes
        too_large = Refusal(413, f"A body has at most {largest} bytes: send fewer images at once.")
        if announced > largest:
            raise too_large
        await self._take(announced or SMALL)
        try:
            async with timeout(self.limits.read_seconds) as deadline:
                while not self.whole:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    self.content += message["body"]
                    self.whole = not message["more_body"]
                    if len(self.content) > largest:
                        raise too_large
                    if len(self.content) > self.taken:  # its length was not announced
                        loop = asyncio.get_running_loop()
                        seconds = (deadline.when() or 0) - loop.time()
                        deadline.reschedule(None)  # waiting for others does not count
                        await self._take(largest)
                        deadline.reschedule(loop.time() + seconds)
        except TimeoutError:
            raise Refusal(
                408, f"The body did not arrive within {self.limits.read_seconds} seconds."
            ) from None
        return bytes(self.content)

    async def _take(self, size: int) -> None:
        self.release_memory()
        memory = self.small if size <= SMALL else self.large
        try:
            async with timeout(self.limits.queue_seconds):
                await memory.take(max(size, BLOCK))
        except TimeoutError:
            raise too_busy(self.limits) from None
        self.memory, self.taken = memory, max(size, BLOCK)

    async def drain(self) -> None:
        """Read and discard the rest of the body, for a short time."""
        self.release()
        try:
            async with timeout(DRAIN_SECONDS):
                while (await self.receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass

    def release(self) -> None:
        """Discard the body."""
        self.content = bytearray()
        self.release_memory()

    def release_memory(self) -> None:
        """Return the memory that was taken."""
        self.memory.give_back(self.taken)
        self.taken = 0


class LimitedBodies:
    """An ASGI application that limits the bodies of the requests to another one.

    The body is `state["body"]` of a request. If the answer comes before the whole body, the
    connection is closed after it.
    """

    def __init__(self, app: App, limits: Serving) -> None:
        """Store the other application and the limits."""
        self.app = app
        self.limits = limits
        self.small = Memory(SMALL_BODIES)
        self.large = Memory(limits.maximum_requests_at_once * limits.maximum_body_bytes)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        body = Body(receive, self.limits, self.small, self.large)
        body.whole = scope["method"] != "POST"  # the body of another request is ignored

        async def answer(message: Message) -> None:
            if not body.whole:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
                elif not message.get("more_body"):
                    await send({**message, "more_body": True})
                    await body.drain()
                    message = {"type": "http.response.body"}
            await send(message)

        try:
            await self.app({**scope, "state": {"body": body}}, receive, answer)
        except Disconnected:
            pass
        finally:
            body.release()


def too_busy(limits: Serving) -> Refusal:
    """Return the refusal of a request that waited too long."""
    seconds = limits.queue_seconds
    message = f"The server is busy: this request waited {seconds} seconds. Send it again later."
    return Refusal(429, message, {"retry-after": str(seconds)})
