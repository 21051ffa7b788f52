"""Bounded queue that is fair to clients: a client that floods it affects only itself."""

import asyncio
import collections
import dataclasses
from typing import Any

from ris_jax import errors


class OverloadError(errors.RunError):
    """A request that does not fit into the queue."""


@dataclasses.dataclass(frozen=True, eq=False)  # arrays of the work have no single truth value
class QueuedJob:
    """Work of a client, and its result to come."""

    client: str
    work: Any
    result: asyncio.Future


class FairQueue:
    """Jobs of several clients, taken in turn.

    If the queue is full, the newest job of the client with the most jobs is refused. Its result is
    then an `OverloadError`.
    """

    def __init__(self, most: int):
        """Create an empty queue.

        Args:
          most: maximum number of waiting jobs.
        """
        self._most, self._size = most, 0
        self._jobs: collections.OrderedDict[str, collections.deque[QueuedJob]] = (
            collections.OrderedDict()
        )
        self._waiting = asyncio.Event()
        self.refused = 0  #: jobs so far

    def __len__(self) -> int:
        return self._size

    def put(self, client: str, work: Any) -> asyncio.Future:
        """Add a job at the end of its client's line; return its future result."""
        job = QueuedJob(client, work, asyncio.get_running_loop().create_future())
        self._jobs.setdefault(client, collections.deque()).append(job)
        self._size += 1
        self._waiting.set()
        if self._size > self._most:
            # Of equally long lines, that of the new job.
            longest = max(self._jobs, key=lambda name: (len(self._jobs[name]), name == client))
            self._refuse(self._jobs[longest][-1])
        return job.result

    async def get(self) -> QueuedJob:
        """Wait for a job; take the oldest one of the client whose turn it is."""
        while not self._size:
            self._waiting.clear()
            await self._waiting.wait()
        client = next(iter(self._jobs))
        job = self._jobs[client][0]
        self._remove(job)
        if client in self._jobs:
            self._jobs.move_to_end(client)
        return job

    def forget(self, result: asyncio.Future) -> None:
        """Remove the job with this future result, if it still waits: its client is gone."""
        for line in self._jobs.values():
            for job in line:
                if job.result is result:
                    return self._remove(job)

    def close(self) -> None:
        """Refuse all waiting jobs."""
        for job in [job for line in self._jobs.values() for job in line]:
            self._refuse(job)

    def _refuse(self, job: QueuedJob) -> None:
        self._remove(job)
        self.refused += 1
        if not job.result.done():
            job.result.set_exception(
                OverloadError(
                    f"queue: expected at most {self._most} waiting requests, of all clients; found "
                    "more, mostly of this client; send the next request after the answer"
                )
            )

    def _remove(self, job: QueuedJob) -> None:
        line = self._jobs[job.client]
        line.remove(job)
        self._size -= 1
        if not line:
            del self._jobs[job.client]
