"""Results for many readers: each gets the newest ones, and a slow reader only loses old ones."""

import asyncio
import collections


class Reader:
    """Reader of a `ResultFeed`, with the results that it has not read yet."""

    def __init__(self, room: int):
        """Create a reader.

        Args:
          room: maximum number of unread results.
        """
        self._unread: collections.deque[str] = collections.deque(maxlen=room)
        self._waiting = asyncio.Event()
        self.dropped = 0  #: results so far

    def add(self, text: str) -> None:
        """Add a result; the oldest unread one is dropped if there is no room."""
        self.dropped += len(self._unread) == self._unread.maxlen
        self._unread.append(text)
        self._waiting.set()

    async def next(self) -> str:
        """Wait for the oldest unread result."""
        while not self._unread:
            self._waiting.clear()
            await self._waiting.wait()
        return self._unread.popleft()


class ResultFeed:
    """Readers of the results of all clients."""

    def __init__(self, room: int = 8):
        """Create a feed without readers.

        Args:
          room: unread results of each reader.
        """
        self._room = room
        self._readers: set[Reader] = set()

    def __len__(self) -> int:
        return len(self._readers)

    def join(self) -> Reader:
        """Add a reader; it gets results from now on."""
        reader = Reader(self._room)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Remove a reader."""
        self._readers.discard(reader)

    def publish(self, text: str) -> None:
        """Give a result to all readers, without waiting for any."""
        for reader in self._readers:
            reader.add(text)
