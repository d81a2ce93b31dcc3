"""The body of an HTTP request: limited in size and time, and in the memory of all requests."""

import asyncio
from asyncio import timeout
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from image_classifier.config.schema import Serving

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

DRAIN_SECONDS = 2  # how long a refused body is still read, so that the client reads the answer
BLOCK = 64 * 1024  # bytes: the unit in which small bodies take memory
SMALL = 2**20  # bytes: the largest small body; most requests are one image
SMALL_BLOCKS = 1024  # for all small bodies together: 64 MiB


class Refusal(Exception):
    """A request is answered with an error status; the text says what was expected."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """Store the status, the message, and additional headers of the answer."""
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class Disconnected(Exception):
    """The client disconnected."""


class MemoryBudget:
    """The memory for the bodies of all requests: many small ones, and a few large ones.

    Small bodies have memory of their own, so that slow clients with large bodies delay only each
    other.
    """

    def __init__(self, large: int) -> None:
        """Set the memory for small bodies, and the largest number of large bodies at once."""
        self.small = asyncio.Semaphore(SMALL_BLOCKS)
        self.large = asyncio.Semaphore(large)
        self.acquiring = asyncio.Lock()

    async def acquire_small(self, size: int) -> list[asyncio.Semaphore]:
        """Wait for memory for a small body, in bytes; return what to release afterwards."""
        taken: list[asyncio.Semaphore] = []
        try:
            # one body at a time: two that each have half of their blocks would wait for ever
            async with self.acquiring:
                for _ in range(-(-size // BLOCK)):
                    await self.small.acquire()
                    taken.append(self.small)
        except BaseException:
            for semaphore in taken:
                semaphore.release()
            raise
        return taken

    async def acquire_large(self) -> list[asyncio.Semaphore]:
        """Wait for memory for a large body; return what to release afterwards."""
        await self.large.acquire()
        return [self.large]


class Body:
    """The body of one request; it takes its memory from the budget of all requests."""

    def __init__(self, receive: Receive, limits: Serving, memory: MemoryBudget) -> None:
        """Store where the body comes from, the limits, and the memory of all requests."""
        self.receive = receive
        self.limits = limits
        self.memory = memory
        self.taken: list[asyncio.Semaphore] = []
        self.content = bytearray()
        self.whole = False

    async def read(self, announced: int) -> None:
        """Read the body into `content`.

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
        small = announced <= SMALL  # also when its length is unknown
        acquire = (
            partial(self.memory.acquire_small, announced or SMALL)
            if small
            else self.memory.acquire_large
        )
        await self._acquire(acquire)
        loop = asyncio.get_running_loop()
        try:
            async with timeout(self.limits.read_seconds) as deadline:
                while not self.whole:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    self.content += message["body"]
                    if len(self.content) > largest:
                        raise too_large
                    self.whole = not message["more_body"]
                    if small and len(self.content) > SMALL:
                        small, seconds = False, (deadline.when() or 0) - loop.time()
                        deadline.reschedule(None)  # waiting for others does not count
                        await self._acquire(self.memory.acquire_large)
                        deadline.reschedule(loop.time() + seconds)
        except TimeoutError:
            raise Refusal(
                408, f"The body did not arrive within {self.limits.read_seconds} seconds."
            ) from None

    async def _acquire(self, acquire: Callable[[], Awaitable[list[asyncio.Semaphore]]]) -> None:
        """Acquire memory, and release what the body had before."""
        try:
            async with timeout(self.limits.queue_seconds):
                taken = await acquire()
        except TimeoutError:
            raise too_busy(self.limits) from None
        self._release()
        self.taken = taken

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
        """Release the memory of the body."""
        self.content = bytearray()
        self._release()

    def _release(self) -> None:
        for semaphore in self.taken:
            semaphore.release()
        self.taken = []


def too_busy(limits: Serving) -> Refusal:
    """Return the refusal of a request that waited too long."""
    seconds = limits.queue_seconds
    message = f"The server is busy: this request waited {seconds} seconds. Send it again later."
    return Refusal(429, message, {"retry-after": str(seconds)})
