"""Queue: turns, bound, and fairness to clients."""

import asyncio

import numpy as np
import pytest

from ris_jax.serving import fair_queue


async def _order(queue, count):
    return [(await queue.get()).work for _ in range(count)]


def test_clients_take_turns():
    async def case():
        queue = fair_queue.FairQueue(8)
        for work in ("a1", "a2", "a3", "b1", "c1", "b2"):
            queue.put(work[0], work)
        assert len(queue) == 6
        assert await _order(queue, 6) == ["a1", "b1", "c1", "a2", "b2", "a3"]
        assert len(queue) == 0

    asyncio.run(case())


def test_a_flood_loses_its_own_requests():
    async def case():
        queue = fair_queue.FairQueue(3)
        flood = [queue.put("flood", number) for number in range(5)]
        with pytest.raises(fair_queue.OverloadError, match="queue: expected at most 3 waiting"):
            await flood[3]
        assert flood[4].exception() is not None
        other = queue.put("other", "x")
        assert not other.done()
        assert flood[2].exception() is not None  # made room
        assert queue.refused == 3
        assert await _order(queue, 3) == [0, "x", 1]

    asyncio.run(case())


def test_of_equal_lines_the_newest_request_is_refused():
    async def case():
        queue = fair_queue.FairQueue(2)
        first, second = queue.put("a", 1), queue.put("b", 2)
        third = queue.put("b", 3)
        assert [job.done() for job in (first, second, third)] == [False, False, True]
        assert third.exception() is not None
        fourth = queue.put("c", 4)
        assert fourth.exception() is not None

    asyncio.run(case())


def test_requests_of_gone_clients_are_removed():
    async def case():
        queue = fair_queue.FairQueue(4)
        works = [np.zeros(2), np.zeros(2), 2]  # arrays cannot be compared with ==
        results = [queue.put("a", work) for work in works]
        queue.forget(results[0])
        queue.forget(results[0])
        results[1].cancel()
        queue.forget(results[1])
        assert await _order(queue, 1) == [2]

    asyncio.run(case())


def test_get_waits_and_close_refuses():
    async def case():
        queue = fair_queue.FairQueue(4)
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.put("a", 1)
        assert (await waiting).work == 1
        last, gone = queue.put("a", 2), queue.put("b", 3)
        gone.cancel()
        queue.close()
        assert len(queue) == 0
        assert isinstance(last.exception(), fair_queue.OverloadError)

    asyncio.run(case())
