"""Latency of `ris-jax serve`: one scene a request, one request after the other.

  python experiments/serve_latency.py
  python experiments/serve_latency.py --num_requests=200 --static_path=on

Starts the service for the surface of `ris-jax example` (12 x 12 elements, 16 antennas, 16 random
codes; scenes of one to three sources at 15 dB) and measures the time from sending a request to the
complete answer, as a client on the same machine sees it. Columns: percentiles of this time, and the
median of `elapsed_ms`, the part after the service has the complete request.

Results (29 November 2026; x86_64, 2 cores without other work, Python 3.11.7, jax 0.10.2), 1000
requests a row, --static_path=auto:

        request  median ms  90 % ms  99 % ms  max ms  in the service ms
-----------------------------------------------------------------------
     POST, JSON       21.8     27.7     31.8    37.8               18.4
     POST, .npz       21.7     27.3     31.5    36.5               18.5
WebSocket, JSON       20.0     25.6     29.6    33.0               17.8
"""

import asyncio
import io
import json
import pathlib
import tempfile
import time
from collections.abc import Awaitable, Callable

import ris_jax  # noqa: F401  Before jax: it sets threads that JAX reads when it starts.

# isort: split
import aiohttp
import live_server
import numpy as np
from absl import app, flags

from ris_jax.data.recordings import containers, example
from ris_jax.reports import provenance, tables

_NUM_REQUESTS = flags.DEFINE_integer("num_requests", 1000, "requests of each row", lower_bound=1)
_STATIC_PATH = flags.DEFINE_enum("static_path", "auto", ("auto", "on", "off"), "of the service")
_SCENES, _SNR_DB, _WARM_UP = 256, 15.0, 20
_HEADER = ("request", "median ms", "90 % ms", "99 % ms", "max ms", "in the service ms")

Ask = Callable[[int], Awaitable[str]]


def _npz(snapshots: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, snapshots=snapshots)
    return buffer.getvalue()


async def _row(name: str, ask: Ask) -> tuple:
    """Return a row of the table."""
    for number in range(_WARM_UP):
        await ask(number)
    times, inside = [], []
    for number in range(_NUM_REQUESTS.value):
        began = time.perf_counter()
        text = await ask(number)
        times.append(1e3 * (time.perf_counter() - began))
        inside.append(json.loads(text)["elapsed_ms"])
    median, ninety, last = np.percentile(times, [50, 90, 99])
    values = (median, ninety, last, np.max(times), np.median(inside))
    return (name, *(f"{value:.1f}" for value in values))


async def _rows(address: str, snapshots: np.ndarray) -> list[tuple]:
    texts = [live_server.as_json(scene) for scene in snapshots]
    archives = [_npz(scene) for scene in snapshots]
    async with aiohttp.ClientSession() as session:

        def post(bodies: list[bytes]) -> Ask:
            async def ask(number: int) -> str:
                body = bodies[number % len(bodies)]
                async with session.post(f"{address}/localize", data=body) as response:
                    assert response.status == 200, await response.text()
                    return await response.text()

            return ask

        rows = [
            await _row("POST, JSON", post(texts)),
            await _row("POST, .npz", post(archives)),
        ]
        async with session.ws_connect(f"{address}/stream") as socket:

            async def stream(number: int) -> str:
                await socket.send_bytes(texts[number % len(texts)])
                return await socket.receive_str()

            return [*rows, await _row("WebSocket, JSON", stream)]


def main(_: list[str]) -> None:
    """Start a service, time its answers and print the table."""
    arrays = example.recordings(_SCENES, 0, _SNR_DB)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "recordings.npz"
        containers.save(path, arrays)
        with live_server.running(path, f"--static_path={_STATIC_PATH.value}") as server:
            rows = asyncio.run(_rows(server.address, arrays["snapshots"]))
    print(f"machine: {provenance.machine()}")
    print("versions: " + ", ".join(f"{k} {v}" for k, v in provenance.versions().items()))
    print(f"{_NUM_REQUESTS.value} requests a row, --static_path={_STATIC_PATH.value}\n")
    print(tables.as_text(_HEADER, rows))


if __name__ == "__main__":
    app.run(main)
