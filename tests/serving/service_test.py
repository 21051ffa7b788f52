"""Service over HTTP and WebSocket, with a localiser that needs no compilation."""

import asyncio
import contextlib
import importlib.resources
import json
import re
import threading

import aiohttp
import numpy as np
import pytest
from aiohttp import test_utils
from serving import surfaces

from ris_jax.serving import messages, service

SNAPSHOTS = surfaces.simulated()[0].snapshots
BODY = surfaces.as_json(SNAPSHOTS[0])


def served(case, *, ready=True, limits=service.ServiceLimits(), localizer=None, **options):  # noqa: B008
    """Run `case(client, live)` with a running service."""

    async def run():
        live = service.LiveService(localizer or surfaces.FixedLocalizer(), limits=limits, **options)
        if ready:
            await live.compile()
        server = test_utils.TestServer(service.application(live))
        async with test_utils.TestClient(server) as client:
            await case(client, live)
        live.close()

    asyncio.run(asyncio.wait_for(run(), 60))


async def _post(client, body=BODY, **options):
    async with client.post("/localize", data=body, **options) as response:
        return response.status, await response.json()


def test_ready_after_compilation():
    async def case(client, live):
        async with client.get("/healthz") as response:
            assert (response.status, (await response.json())["status"]) == (503, "compiling")
        status, found = await _post(client)
        assert (status, found["error"]) == (
            503, "service: expected a ready service; found it compiling; wait, about 20 s",
        )  # fmt: skip
        await live.compile()
        assert live.localizer.warm
        async with client.get("/healthz") as response:
            assert (response.status, (await response.json())["status"]) == (200, "ready")

    served(case, ready=False)


def test_answers():
    async def case(client, live):
        for body in (BODY, surfaces.as_json(SNAPSHOTS[:3], id="x")):
            status, found = await _post(client, body)
            assert status == 200
            assert [scene["num_sources"] for scene in found["scenes"]] == [1] * len(found["scenes"])
            assert found["scenes"][0]["sources"][0]["position_m"] == [0.0, 0.0, 5.0]
        assert (found["id"], len(found["scenes"])) == ("x", 3)
        (first, noise), _ = live.localizer.calls
        np.testing.assert_array_equal(first, SNAPSHOTS[:1])
        assert noise == 0.25
        status = live.status()
        assert (status["answered"], status["waiting"], status["rate_hz"]) == (2, 0, 0.2)

    served(case, noise_variance=0.25)


def test_snr_gives_the_noise_variance():
    async def case(client, live):
        await _post(client, surfaces.as_json(SNAPSHOTS[0], snr_db=10.0))
        _, noise = live.localizer.calls[0]
        power = np.mean(np.abs(SNAPSHOTS[0]) ** 2)
        np.testing.assert_allclose(noise, power / 11.0, rtol=1e-6)

    served(case, noise_variance=0.25)


def test_malformed_bodies():
    async def case(client, live):
        status, found = await _post(client, b"{")
        assert (status, found["field"], found["expected"]) == (400, "body", "JSON or .npz")
        assert found["error"] == f"body: expected JSON or .npz; found {found['found']}"
        status, found = await _post(client, bytes(4001))
        assert (status, found["error"]) == (
            413, "body: expected at most 4000 bytes; found 4001 bytes; raise --max_body_mb",
        )  # fmt: skip

        async def chunks():
            yield bytes(4001)

        status, found = await _post(client, chunks())
        assert (status, found["error"]) == (
            413, "body: expected at most 4000 bytes; found more; raise --max_body_mb",
        )  # fmt: skip
        assert not live.localizer.calls

    served(case, limits=service.ServiceLimits(max_body=4000))


def test_a_slow_body_is_refused(monkeypatch):
    monkeypatch.setattr(service, "_SECONDS_TO_SEND", 0.1)

    async def case(client, _):
        async def slow():
            yield BODY[:10]
            await asyncio.sleep(30)

        status, found = await _post(client, slow())
        assert (status, found["error"]) == (
            408, "body: expected within 0.1 s; found it incomplete"
        )  # fmt: skip

    served(case)


def test_an_internal_error_is_one_line(capsys):
    def fail():
        raise ZeroDivisionError("no\nnoise")

    async def case(client, live):
        status, found = await _post(client)
        assert (status, found["error"]) == (500, "internal error: no")
        live.localizer._wait = None
        assert (await _post(client))[0] == 200

    served(case, localizer=surfaces.FixedLocalizer(wait=fail))
    assert "request failed: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "headers", "status", "message"),
    [
        ("/nothing", {}, 404, "404 Not Found"),
        ("/localize", {}, 405, "405 Method Not Allowed"),
        ("/", {"Origin": "http://other.example"}, 403, "origin: expected http://127.0.0.1"),
        ("/feed", {"Origin": "null"}, 403, "origin: expected http://127.0.0.1"),
        ("/", {"Host": "other.example"}, 403, "host: expected one of localhost, 127.0.0.1, ::1"),
    ],
)
def test_refused_requests(path, headers, status, message):
    async def case(client, _):
        async with client.get(path, headers=headers) as response:
            assert response.status == status
            assert (await response.json())["error"].startswith(message)

    served(case)


class _Gate:
    """Localiser that waits until it is opened."""

    def __init__(self):
        self.event = threading.Event()
        self.localizer = surfaces.FixedLocalizer(wait=lambda: self.event.wait(30))


def test_a_flood_is_refused_and_others_are_answered():
    gate = _Gate()

    async def case(client, live):
        flood = [
            asyncio.create_task(_post(client, headers={"X-Client": "flood"})) for _ in range(12)
        ]
        while sum(task.done() for task in flood) < 7:  # one is answered, four wait
            await asyncio.sleep(0.01)
        other = asyncio.create_task(_post(client, headers={"X-Client": "other"}))
        await asyncio.sleep(0.05)
        gate.event.set()
        status, _ = await other
        assert status == 200
        found = await asyncio.gather(*flood)
        assert [status for status, _ in found].count(200) == 4
        refused = [answer["error"] for status, answer in found if status == 429]
        assert len(refused) == 8
        assert any(
            text.startswith("queue: expected at most 4 waiting requests") for text in refused
        )

    served(case, localizer=gate.localizer, limits=service.ServiceLimits(max_queue=4))


def test_open_requests_are_bounded():
    gate = _Gate()

    async def case(client, live):
        waiting = asyncio.create_task(_post(client))
        while not live._open:
            await asyncio.sleep(0.01)
        (name,) = live._open
        live._open[name] += 1
        status, found = await _post(client)
        assert (status, found["error"]) == (
            429, "service: expected at most 2 open requests of this client; found more"
        )  # fmt: skip
        live._open["others"] = 6
        status, found = await _post(client, headers={"X-Client": "third"})
        assert (status, found["error"]) == (
            503, "service: expected at most 8 open requests; found more"
        )  # fmt: skip
        live._open["others"] = 5
        third = asyncio.create_task(_post(client, headers={"X-Client": "third"}))
        while live._open.total() < 8:
            await asyncio.sleep(0.01)
        live._open[name] -= 1
        gate.event.set()
        assert (await waiting)[0] == (await third)[0] == 200
        assert live._open == {"others": 5}

    served(case, localizer=gate.localizer, limits=service.ServiceLimits(max_queue=1))


def test_a_dropped_client_leaves_the_queue():
    gate = _Gate()

    async def case(client, live):
        first = asyncio.create_task(_post(client))
        while not live._open:
            await asyncio.sleep(0.01)
        dropped = asyncio.create_task(_post(client))
        while not len(live.queue):
            await asyncio.sleep(0.01)
        dropped.cancel()
        while len(live.queue):
            await asyncio.sleep(0.01)
        gate.event.set()
        assert (await first)[0] == 200
        assert (await _post(client))[0] == 200
        assert len(live.localizer.calls) == 2

    served(case, localizer=gate.localizer)


def test_stream():
    async def case(client, live):
        async with client.ws_connect("/stream") as socket:
            await socket.send_str(surfaces.as_json(SNAPSHOTS[0], id=1).decode())
            await socket.send_bytes(surfaces.as_json(SNAPSHOTS[0], id=2))
            await socket.send_str("{}")
            await socket.send_str(surfaces.as_json(SNAPSHOTS[0], id=3).decode())
            found = [await socket.receive_json() for _ in range(4)]
            assert [answer.get("id") for answer in found] == ["1", "2", None, "3"]
            assert found[2]["field"] == "snapshots"
            live.ready = False
            await socket.send_str("{}")
            assert "compiling" in (await socket.receive_json())["error"]
            live.ready = True
            await socket.send_str("x" * 5000)
            closed = await socket.receive()
            assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 1009)

    served(case, limits=service.ServiceLimits(max_body=4000))


def test_stream_ends_for_a_client_that_does_not_read(monkeypatch):
    monkeypatch.setattr(service, "_SECONDS_TO_SEND", 0.1)

    async def never(*_):
        await asyncio.sleep(30)

    async def case(client, live):
        async with client.ws_connect("/stream") as socket:
            monkeypatch.setattr(aiohttp.web.WebSocketResponse, "send_str", never)
            await socket.send_bytes(BODY)
            assert (await socket.receive()).type in (
                aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED,
            )  # fmt: skip

    served(case)


def test_feed_has_the_answers_to_all_clients():
    async def case(client, live):
        async with client.ws_connect("/feed") as socket:
            assert (await socket.receive_json())["service"]["status"] == "ready"
            _, answer = await _post(client)
            found = await socket.receive_json()
            assert found["scenes"] == answer["scenes"]
            assert found["service"]["answered"] == 1
            await socket.send_str("ignored")
            assert len(live.feed) == 1
        while len(live.feed):
            await asyncio.sleep(0.01)

    served(case)


def test_a_reader_that_is_slow_blocks_nobody(monkeypatch):
    async def never(*_):
        await asyncio.sleep(60)

    async def case(client, live):
        async with client.ws_connect("/feed"):
            while not len(live.feed):
                await asyncio.sleep(0.01)
            monkeypatch.setattr(aiohttp.web.WebSocketResponse, "send_str", never)
            for _ in range(20):
                assert (await _post(client))[0] == 200
            (reader,) = live.feed._readers
            assert reader.dropped >= 10
        monkeypatch.undo()

    served(case)


def test_sockets_are_bounded(monkeypatch):
    monkeypatch.setattr(service, "_READERS", 1)

    async def case(client, _):
        async with client.ws_connect("/feed") as socket:
            await socket.receive_json()
            async with client.get("/feed") as response:
                assert response.status == 503
                assert "at most 1 WebSockets" in (await response.json())["error"]

    served(case)


def test_sockets_end_with_the_service():
    async def run():
        live = service.LiveService(surfaces.FixedLocalizer())
        await live.compile()
        server = test_utils.TestServer(service.application(live))
        async with test_utils.TestClient(server) as client:
            socket = await client.ws_connect("/feed")
            await socket.receive_json()
            reading = asyncio.create_task(socket.receive())
            await server.close()
            message = await reading
            assert message.data == aiohttp.WSCloseCode.GOING_AWAY
        live.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_the_page_needs_no_other_site():
    """No address of another site, and a policy that forbids any."""

    async def case(client, _):
        for path, kind in (("/", "html"), ("/page.js", "javascript"), ("/page.css", "css")):
            async with client.get(path) as response:
                assert response.status == 200
                assert kind in response.content_type
                policy = response.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self';")
                text = await response.text()
                assert set(re.findall(r"\bhttps?://[^\"' ]*", text)) <= {
                    "http://www.w3.org/2000/svg"
                }
                assert "innerHTML" not in text

    served(case)
    folder = importlib.resources.files("ris_jax.serving")
    assert all((folder / name).is_file() for name in service._PAGE.values())


def _run(live, act):
    """Run `service.run` with a stop by `act(address)`; return the lines that it announces."""
    lines = []

    async def run():
        loop = asyncio.get_running_loop()
        handlers = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "add_signal_handler", lambda n, f: handlers.update({n: f}))
            patch.setattr(loop, "remove_signal_handler", handlers.pop)
            serving = asyncio.create_task(service.run(live, "127.0.0.1", 0, lines.append))
            while not lines and not serving.done():
                await asyncio.sleep(0.01)
            if lines:
                address = re.search(r"http://\S+(?=;)", lines[0])[0]
                await act(address, lines)
                for stop in list(handlers.values())[:1]:  # none if the service has ended
                    stop()
            await serving
        assert handlers == {}

    asyncio.run(asyncio.wait_for(run(), 30))
    return lines


def test_run_until_a_signal():
    async def act(address, lines):
        while lines[-1] != "ready":
            await asyncio.sleep(0.01)
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{address}/localize", data=BODY) as response,
        ):
            assert response.status == 200

    lines = _run(service.LiveService(surfaces.FixedLocalizer()), act)
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+; compiling, about 20 s", lines[0])
    assert lines[1:] == ["ready", "stopping", "stopped; 1 requests answered, 0 refused"]


def test_a_signal_during_the_compilation():
    live = service.LiveService(surfaces.FixedLocalizer())
    gate = threading.Event()
    live.localizer.warm_up = lambda: gate.wait(30)

    async def act(*_):
        threading.Timer(0.2, gate.set).start()  # the loop waits for the compilation

    assert _run(live, act)[1:] == ["stopping", "stopped; 0 requests answered, 0 refused"]


def test_errors_of_the_start():
    """A failed compilation and an address in use end the service."""

    def fail():
        raise MemoryError("no room")

    async def nothing(*_):
        await asyncio.sleep(0.2)

    live = service.LiveService(surfaces.FixedLocalizer())
    live.localizer.warm_up = fail
    with pytest.raises(MemoryError, match="no room"):
        _run(live, nothing)

    async def twice():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with contextlib.closing(server), pytest.raises(OSError, match="address already in use"):
            await service.run(
                service.LiveService(surfaces.FixedLocalizer()), "127.0.0.1", port, lambda _: None
            )

    asyncio.run(twice())


def test_messages_are_strict_json():
    with pytest.raises(ValueError, match="Out of range"):
        messages.as_text({"value": float("nan")})
    assert json.loads(messages.as_text({"value": None})) == {"value": None}
