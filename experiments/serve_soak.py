"""Soak of `ris-jax serve`: floods, malformed bodies and dropped clients beside good clients.

  python experiments/serve_soak.py
  python experiments/serve_soak.py --num_requests=2000 --num_elements=6

Starts the service for a small surface and sends requests from several clients at once. Good clients
post scenes and compare every answer with the first one for the same scene; a WebSocket client does
the same; one client floods; others post malformed bodies, leave before the answer, or open the feed
and do not read it. Every 5 % of the requests, a row has the memory of the service, the requests per
second, and the median and greatest latency of a good client. The soak fails if a good client gets
anything else than its answer, if a malformed body gets anything else than a status of 400 to 499,
or if the memory grows.

Results (29 November 2026; x86_64, 2 cores with other work on them, Python 3.11.7, jax 0.10.2), some
of the rows:

requests  memory MB  per second  median ms   max ms  refused  malformed  dropped
--------------------------------------------------------------------------------
    5000      444.4          40     3041.8  10243.7       56        225     4507
   20013      445.3          96      148.0   2325.5      658       2478    14330
   40004      446.3          51      315.8   5556.0     1239       5019    28865
   60005      446.4          62     1330.7   4071.8     2014       8161    41830
  100000      446.4         116      145.5   1351.2     3560      14336    67882

15009 requests were answered and 3565 refused.
"""

import asyncio
import contextlib
import json
import pathlib
import tempfile
import time
from typing import Any

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import aiohttp
import live_server
import numpy as np
from absl import app, flags

from ris_jax.data.recordings import containers, host_steering
from ris_jax.reports import provenance, tables

_NUM_REQUESTS = flags.DEFINE_integer("num_requests", 100_000, "requests in all", lower_bound=100)
_NUM_ELEMENTS = flags.DEFINE_integer("num_elements", 6, "rows and columns", lower_bound=2)
_SCENES, _CODES, _ANTENNAS = 32, 8, 8
_GOOD, _PARALLEL_FLOOD = 3, 24
_MOST_GROWTH = 16 << 20  # bytes, from a quarter of the requests on
_HEADER = ("requests", "memory MB", "per second", "median ms", "max ms", "refused", "malformed",
           "dropped")  # fmt: skip


def surface(elements: int) -> dict[str, Any]:
    """Return a recordings file of a small surface, one source a scene."""
    random = np.random.default_rng(0)

    def gaussian(*shape):
        return random.normal(size=(*shape, 2)) @ np.array([1.0, 1.0j])

    steps = (np.arange(elements) - (elements - 1) / 2) * 0.15
    positions = np.stack([*map(np.ravel, np.meshgrid(steps, steps)), np.zeros(elements**2)], -1)
    codes = np.exp(2j * np.pi * random.integers(8, size=(_CODES, len(positions))) / 8)
    channel = gaussian(_ANTENNAS, len(positions))
    angles = random.uniform([-0.8, -0.4], [0.8, 0.4], size=(_SCENES, 2))
    azimuth, elevation = angles.T
    points = host_steering.coordinates_of(azimuth, elevation, random.uniform(1, 3, _SCENES))
    vectors = host_steering.steering(points, positions, wavelength=0.3)
    clean = (codes * vectors[:, None]) @ channel.T
    snapshots = clean + 0.05 * np.sqrt(np.mean(np.abs(clean) ** 2)) * gaussian(*clean.shape)
    return {
        "snapshots": snapshots.astype(np.complex64), "channel": channel, "codes": codes,
        "wavelength": 0.3, "element_positions": positions,
    }  # fmt: skip


class Soak:
    """Clients of one service, and what they have seen."""

    def __init__(self, server: live_server.LiveServer, snapshots: np.ndarray, total: int):
        self._server, self._total = server, total
        self._bodies = [live_server.as_json(scene) for scene in snapshots]
        self._answers: dict[int, Any] = {}
        self._random = np.random.default_rng(0)
        self.sent = self.refused = self.malformed = self.dropped = 0
        self._latencies: list[float] = []
        self.rows: list[tuple] = []
        self.memory: list[int] = []

    @property
    def _over(self) -> bool:
        return self.sent >= self._total

    def _check(self, number: int, text: str) -> None:
        """Compare an answer with the first one for the same scene."""
        scenes = json.loads(text).get("scenes")
        assert scenes is not None, text
        assert self._answers.setdefault(number, scenes) == scenes, "another answer"

    async def _good(self, name: str) -> None:
        """Post scenes one by one; each is answered."""
        async with aiohttp.ClientSession(headers={"X-Client": name}) as session:
            while not self._over:
                number = int(self._random.integers(len(self._bodies)))
                self.sent += 1
                began = time.perf_counter()
                async with session.post(
                    f"{self._server.address}/localize", data=self._bodies[number]
                ) as response:
                    text = await response.text()
                    assert response.status == 200, text
                self._latencies.append(1e3 * (time.perf_counter() - began))
                self._check(number, text)

    async def _stream(self) -> None:
        """Send scenes over a WebSocket, which now and then ends without a close."""
        while not self._over:
            async with aiohttp.ClientSession() as session:
                socket = await session.ws_connect(f"{self._server.address}/stream?client=stream")
                for _ in range(200):
                    if self._over:
                        break
                    number = int(self._random.integers(len(self._bodies)))
                    self.sent += 1
                    await socket.send_bytes(self._bodies[number])
                    self._check(number, await socket.receive_str())
                self.dropped += 1

    async def _flood(self) -> None:
        """Post many scenes at once, and wait a little; some are refused."""
        connector = aiohttp.TCPConnector(limit=_PARALLEL_FLOOD)
        async with aiohttp.ClientSession(
            headers={"X-Client": "flood"}, connector=connector
        ) as session:

            async def one():
                self.sent += 1
                number = int(self._random.integers(len(self._bodies)))
                async with session.post(
                    f"{self._server.address}/localize", data=self._bodies[number]
                ) as response:
                    text = await response.text()
                    assert response.status in (200, 429, 503), text
                    self.refused += response.status != 200

            while not self._over:
                await asyncio.gather(*(one() for _ in range(_PARALLEL_FLOOD)))
                await asyncio.sleep(0.05)

    def _damaged(self) -> bytes:
        """Return a body with random damage."""
        body = bytearray(self._bodies[0])
        kind = self._random.integers(4)
        if kind == 0:
            return bytes(body[: self._random.integers(len(body))])
        if kind == 1:
            return b"PK" + self._random.bytes(200)
        if kind == 2:
            return self._random.bytes(int(self._random.integers(1, 2000)))
        return json.dumps({"snapshots": [[[[]]], {}, "x", None][self._random.integers(4)]}).encode()

    async def _malformed(self) -> None:
        async with aiohttp.ClientSession() as session:
            while not self._over:
                self.sent += 1
                self.malformed += 1
                async with session.post(
                    f"{self._server.address}/localize", data=self._damaged()
                ) as response:
                    text = await response.text()
                    assert 400 <= response.status < 500, text
                    assert "error" in json.loads(text)
                await asyncio.sleep(0.01)

    async def _dropping(self) -> None:
        """Connect, send all or a part of a request, and leave without reading."""
        host, port = self._server.address.removeprefix("http://").split(":")
        while not self._over:
            self.sent += 1
            self.dropped += 1
            _, writer = await asyncio.open_connection(host, int(port))
            body = self._bodies[0]
            head = f"POST /localize HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
            whole = head.encode() + body
            writer.write(whole[: self._random.integers(1, 2 * len(whole))])
            await asyncio.sleep(0.02 * self._random.random())
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _not_reading(self) -> None:
        """Open the feed and do not read it."""
        host, port = self._server.address.removeprefix("http://").split(":")
        key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        key += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        while not self._over:
            _, writer = await asyncio.open_connection(host, int(port), limit=1)
            writer.write(f"GET /feed HTTP/1.1\r\nHost: {host}\r\n{key}\r\n".encode())
            for _ in range(100):
                if self._over:
                    break
                await asyncio.sleep(0.1)
            writer.transport.abort()

    async def _watch(self) -> None:
        """Add a row for every twentieth of the requests."""
        step, before, began = self._total / 20, 0, time.perf_counter()
        while not self._over:
            await asyncio.sleep(0.1)
            if self.sent < step * (len(self.rows) + 1) and not self._over:
                continue
            latencies, self._latencies = self._latencies or [np.nan], []
            self.memory.append(self._server.memory())
            rate = (self.sent - before) / (time.perf_counter() - began)
            before, began = self.sent, time.perf_counter()
            self.rows.append(
                (
                    str(self.sent), f"{self.memory[-1] / 1e6:.1f}", f"{rate:.0f}",
                    f"{np.median(latencies):.1f}", f"{np.max(latencies):.1f}",
                    str(self.refused), str(self.malformed), str(self.dropped),
                )
            )  # fmt: skip
            print(" | ".join(self.rows[-1]), flush=True)

    async def run(self) -> None:
        """Run all clients until all requests are sent.

        Raises:
          AssertionError: a client got a wrong answer, or the memory grows.
        """
        clients = [self._good(f"good {number}") for number in range(_GOOD)]
        clients += [self._stream(), self._flood(), self._malformed(), self._dropping()]
        async with asyncio.TaskGroup() as group:
            for client in (*clients, self._not_reading(), self._watch()):
                group.create_task(client)
        growth = max(self.memory) - self.memory[len(self.memory) // 4]
        assert growth < _MOST_GROWTH, f"the memory has grown by {growth / 1e6:.1f} MB"


def soak(total: int, elements: int) -> Soak:
    """Start a service, run all clients, and stop it."""
    arrays = surface(elements)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "surface.npz"
        containers.save(path, arrays)
        options = ("--max_sources=2", "--static_path=off", "--max_queue=16")
        with live_server.running(path, *options) as server:
            found = Soak(server, arrays["snapshots"], total)
            asyncio.run(found.run())
        assert [file.name for file in pathlib.Path(folder).iterdir()] == ["surface.npz"]
    print(server.lines[-2])
    return found


def main(_: list[str]) -> None:
    """Start a service, send all kinds of requests and print its memory."""
    print(f"machine: {provenance.machine()}")
    print("versions: " + ", ".join(f"{k} {v}" for k, v in provenance.versions().items()))
    found = soak(_NUM_REQUESTS.value, _NUM_ELEMENTS.value)
    print(tables.as_text(_HEADER, found.rows))


if __name__ == "__main__":
    app.run(main)
