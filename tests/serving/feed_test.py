"""Feed: slow readers lose old results only, and never block others."""

import asyncio

from ris_jax.serving import feed


def test_each_reader_gets_the_newest_results():
    async def case():
        results = feed.ResultFeed(room=3)
        quick, slow = results.join(), results.join()
        for number in range(10):
            results.publish(str(number))
            assert await quick.next() == str(number)
        assert [await slow.next() for _ in range(3)] == ["7", "8", "9"]
        assert (quick.dropped, slow.dropped) == (0, 7)
        results.leave(slow)
        results.leave(slow)
        assert len(results) == 1
        waiting = asyncio.create_task(quick.next())
        await asyncio.sleep(0)
        results.publish("last")
        assert await waiting == "last"

    asyncio.run(case())
