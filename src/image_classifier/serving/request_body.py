"""The body of an HTTP request: read with limits on size and time, in memory shared by all."""

import asyncio
from asyncio import timeout
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from image_classifier.schema import Serving

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

LINGER_SECONDS = 2  # a refused body is thrown away that long, so that the client reads the answer
BLOCK = 64 * 1024  # bytes in which the memory for small bodies is dealt out
SMALL = 2**20  # bytes of a body up to which it is small: most are one image
SMALL_BLOCKS = 1024  # for all small bodies together: 64 MiB


class Refusal(Exception):
    """A request that is answered with an error status; the text says what was expected."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        """Take the status, the message, and headers to add to the answer."""
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class Disconnected(Exception):
    """The client went away."""


class Room:
    """The memory for the bodies of all requests: for many small ones, and for a few large ones.

    Not turns for whole requests, or a few slow clients would have them all: those who send large
    bodies slowly only hold up each other.
    """

    def __init__(self, large: int) -> None:
        """Take how many large bodies there may be at once."""
        self.small = asyncio.Semaphore(SMALL_BLOCKS)
        self.large = asyncio.Semaphore(large)
        self.dealing = asyncio.Lock()

    async def take_small(self, size: int) -> list[asyncio.Semaphore]:
        """Wait for room for so many bytes, all of it; return what to release afterwards."""
        taken: list[asyncio.Semaphore] = []
        try:
            # one at a time, or several could each have half of what they need, and wait for ever
            async with self.dealing:
                for _ in range(-(-size // BLOCK)):
                    await self.small.acquire()
                    taken.append(self.small)
        except BaseException:
            for semaphore in taken:
                semaphore.release()
            raise
        return taken

    async def take_large(self) -> list[asyncio.Semaphore]:
        """Wait for the room of the largest body; return what to release afterwards."""
        await self.large.acquire()
        return [self.large]


class Body:
    """The body of one request, which takes its memory from what all requests have together."""

    def __init__(self, receive: Receive, limits: Serving, room: Room) -> None:
        """Take where it comes from, the limits, and the memory of all."""
        self.receive = receive
        self.limits = limits
        self.room = room
        self.taken: list[asyncio.Semaphore] = []
        self.content = bytearray()
        self.whole = False

    async def read(self, announced: int) -> None:
        """Read it into `content`.

        Args:
            announced: Its length in bytes, as the header says, or 0.

        Raises:
            Refusal: it is too large or too slow, or there was no memory left for too long.
            Disconnected: the client went away.
        """
        largest = self.limits.maximum_body_bytes
        too_large = Refusal(413, f"A body can have {largest} bytes: send fewer images at once.")
        if announced > largest:
            raise too_large
        small = announced <= SMALL  # as long as its length is not known, too
        take = partial(self.room.take_small, announced or SMALL) if small else self.room.take_large
        await self._take(take)
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
                        deadline.reschedule(None)  # others hold it up: that is not its own time
                        await self._take(self.room.take_large)
                        deadline.reschedule(loop.time() + seconds)
        except TimeoutError:
            raise Refusal(
                408, f"The body did not come within {self.limits.read_seconds} seconds."
            ) from None

    async def _take(self, take: Callable[[], Awaitable[list[asyncio.Semaphore]]]) -> None:
        """Take room instead of what it has."""
        try:
            async with timeout(self.limits.queue_seconds):
                taken = await take()
        except TimeoutError:
            raise busy(self.limits) from None
        self._release()
        self.taken = taken

    async def throw_away(self) -> None:
        """Read what is left for a moment, and forget it."""
        self.release()
        try:
            async with timeout(LINGER_SECONDS):
                while (await self.receive()).get("more_body"):
                    pass
        except TimeoutError:
            pass

    def release(self) -> None:
        """Give its memory back."""
        self.content = bytearray()
        self._release()

    def _release(self) -> None:
        for semaphore in self.taken:
            semaphore.release()
        self.taken = []


def busy(limits: Serving) -> Refusal:
    """Return the refusal of a request that waited too long for its turn."""
    seconds = limits.queue_seconds
    message = f"The server is busy: this request waited {seconds} seconds. Send it again later."
    return Refusal(429, message, {"retry-after": str(seconds)})
