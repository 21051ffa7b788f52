"""Localisation over HTTP and WebSocket: one worker, a bounded queue, a page with a live map.

`POST /localize` answers a request; `/stream` is a WebSocket that answers every message; `/feed` is
a WebSocket with the answers to all clients, which the page `/` draws; `GET /healthz` reports
whether the programs are compiled. Requests stay in memory.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import importlib.resources
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web

from ris_jax import errors
from ris_jax.data.recordings import reader as reader_lib
from ris_jax.serving import fair_queue, feed, messages, prepared

_PAGE = {"/": "page.html", "/page.js": "page.js", "/page.css": "page.css"}
_CONTENT_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_SECONDS_TO_SEND = 10.0  # a request body, or to take an answer
_SECONDS_BETWEEN_PINGS = 60.0
_LATENCIES = 256  # that the median of the page is of
_SECONDS_OF_RATE = 10.0
_READERS = 64
# Open requests of a client and of all clients, over the size of the queue.
_OPEN_OF_A_CLIENT, _OPEN = 2, 8
_LONGEST_CLIENT = 64  # characters of the header X-Client


class ServiceLimits(NamedTuple):
    """Limits of the service."""

    max_body: int = 1 << 20  #: bytes of a request
    max_queue: int = 32  #: waiting requests
    max_scenes: int = 8  #: in a request


class LiveService:
    """State of the service: localiser, queue, feed and counters."""

    def __init__(
        self,
        localizer: prepared.PreparedLocalizer,
        *,
        noise_variance: float = np.nan,
        limits: ServiceLimits = ServiceLimits(),  # noqa: B008  immutable
    ):
        """Create a service that is not ready yet.

        Args:
          localizer: of the surface.
          noise_variance: of requests without `snr_db`; NaN if unknown.
          limits: of the service.
        """
        self.localizer, self.limits = localizer, limits
        self.queue = fair_queue.FairQueue(limits.max_queue)
        self.feed = feed.ResultFeed()
        self.ready = False
        self.answered = 0
        self._noise = noise_variance
        self._open = collections.Counter[str]()  # requests of each client, read or answered
        self._latencies: collections.deque[float] = collections.deque(maxlen=_LATENCIES)
        self._times: collections.deque[float] = collections.deque(maxlen=4096)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="localizer")

    async def compile(self) -> None:
        """Compile in the worker; requests get the status 503 until then."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.localizer.warm_up)
        self.ready = True

    async def work(self) -> None:
        """Answer the requests of the queue, one by one, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            job = await self.queue.get()
            try:
                found = await loop.run_in_executor(self._thread, self._answer, *job.work)
            except Exception as error:
                if not job.result.done():
                    job.result.set_exception(error)
                continue
            self.answered += 1
            self._times.append(time.monotonic())
            self._latencies.append(found["elapsed_ms"])
            if not job.result.done():
                job.result.set_result(found)
            if len(self.feed):
                self.feed.publish(messages.as_text(found | {"service": self.status()}))

    def _answer(self, request: messages.SceneRequest, began: float) -> dict[str, Any]:
        """Localise the sources of a request, in the worker."""
        noise: Any = self._noise
        if request.snr_db is not None:
            noise = reader_lib.noise_variance_of(
                request.snapshots,
                request.snr_db,
                static_path=self.localizer.static_path == "on",
            )
        estimate = self.localizer(request.snapshots, noise)
        return messages.answer(
            estimate,
            name=request.name,
            time=time.time(),
            elapsed_ms=1e3 * (time.monotonic() - began),
        )

    async def localize(self, body: bytes, client: str) -> dict[str, Any]:
        """Answer a request.

        Raises:
          RequestError: it is malformed.
          OverloadError: the queue is full, mostly of this client.
        """
        began = time.monotonic()
        request = messages.parse(
            body,
            self.localizer.shape,
            max_scenes=self.limits.max_scenes,
            max_bytes=self.limits.max_body,
        )
        result = self.queue.put(client, (request, began))
        try:
            return await result
        finally:
            self.queue.forget(result)

    def status(self) -> dict[str, Any]:
        """Return the counters that the page and `/healthz` report."""
        now = time.monotonic()
        recent = sum(now - moment < _SECONDS_OF_RATE for moment in self._times)
        latency = statistics.median(self._latencies) if self._latencies else None
        return {
            "status": "ready" if self.ready else "compiling",
            "answered": self.answered,
            "refused": self.queue.refused,
            "waiting": len(self.queue),
            "readers": len(self.feed),
            "rate_hz": round(recent / _SECONDS_OF_RATE, 2),
            "median_ms": None if latency is None else round(latency, 2),
        }

    @contextlib.contextmanager
    def admitted(self, client: str):
        """Count a request of a client while it is read and answered.

        Raises:
          HTTPServiceUnavailable: the programs are not compiled yet, or too many requests are open.
          HTTPTooManyRequests: too many requests of this client are open.
        """
        if not self.ready:
            raise _unavailable(
                "service: expected a ready service; found it compiling; wait, about 20 s"
            )
        most = self.limits.max_queue
        if self._open[client] >= _OPEN_OF_A_CLIENT * most:
            message = f"expected at most {_OPEN_OF_A_CLIENT * most} open requests of this client"
            raise _too_many(f"service: {message}; found more")
        if self._open.total() >= _OPEN * most:
            raise _unavailable(
                f"service: expected at most {_OPEN * most} open requests; found more"
            )
        self._open[client] += 1
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    def close(self) -> None:
        """Refuse the waiting requests and stop the worker after its present one."""
        self.queue.close()
        self._thread.shutdown(wait=True, cancel_futures=True)


_SERVICE = web.AppKey("service", LiveService)
_SOCKETS = web.AppKey("sockets", set)


def _problem(message: str, **fields: str) -> dict[str, Any]:
    """Return the text and the content type of an error."""
    text = json.dumps({"error": message, **fields})
    return {"text": text, "content_type": "application/json"}


def _unavailable(message: str) -> web.HTTPException:
    return web.HTTPServiceUnavailable(headers={"Retry-After": "1"}, **_problem(message))


def _too_many(message: str) -> web.HTTPException:
    return web.HTTPTooManyRequests(headers={"Retry-After": "1"}, **_problem(message))


def _as_http(error: Exception) -> web.HTTPException:
    """Return the HTTP error of a failed request."""
    if isinstance(error, messages.RequestError):
        fields = {name: getattr(error, name) for name in ("field", "expected", "found")}
        return web.HTTPBadRequest(**_problem(str(error), **fields))
    if isinstance(error, fair_queue.OverloadError):
        return _too_many(str(error))
    print(f"ris-jax: request failed: {errors.brief(repr(error))}", file=sys.stderr)
    return web.HTTPInternalServerError(**_problem(f"internal error: {errors.first_line(error)}"))


def _client(request: web.Request) -> str:
    """Return the address of a client and its name in the header X-Client, if any."""
    name = request.headers.get("X-Client", request.query.get("client", ""))[:_LONGEST_CLIENT]
    return f"{request.remote} {name}"


@web.middleware
async def _guard(request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
    """Refuse pages of other origins; report every error as JSON."""
    try:
        _check_origin(request)
        return await handler(request)
    except web.HTTPException as error:
        if error.content_type != "application/json":
            error.text = json.dumps({"error": f"{error.status} {error.reason}"})
            error.content_type = "application/json"
        raise


def _check_origin(request: web.Request) -> None:
    """Refuse requests that a page of another site makes through the browser of a user.

    Raises:
      HTTPForbidden: the header Origin names another host; or a loopback service has another name.
    """
    host, origin = request.host, request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise web.HTTPForbidden(
            **_problem(f"origin: expected http://{host}; found {errors.brief(origin)}")
        )
    local = request.transport and request.transport.get_extra_info("sockname")
    name = urlsplit(f"//{host}").hostname
    if local and local[0] in _LOOPBACK and name not in _LOOPBACK:
        raise web.HTTPForbidden(
            **_problem(f"host: expected one of {', '.join(_LOOPBACK)}; found {errors.brief(host)}")
        )


async def _page(request: web.Request) -> web.Response:
    name = _PAGE[request.path]
    text = (importlib.resources.files("ris_jax.serving") / name).read_text()
    kind = _CONTENT_TYPES[name.rpartition(".")[2]]
    return web.Response(text=text, content_type=kind, headers=_HEADERS)


async def _health(request: web.Request) -> web.Response:
    status = request.app[_SERVICE].status()
    return web.json_response(status, status=200 if status["status"] == "ready" else 503)


async def _localize(request: web.Request) -> web.Response:
    service, client = request.app[_SERVICE], _client(request)
    with service.admitted(client):
        try:
            body = await asyncio.wait_for(request.read(), _SECONDS_TO_SEND)
        except TimeoutError:
            raise web.HTTPRequestTimeout(
                **_problem(f"body: expected within {_SECONDS_TO_SEND:g} s; found it incomplete")
            ) from None
        except web.HTTPRequestEntityTooLarge:
            raise _too_large(service.limits.max_body, request.content_length) from None
        try:
            found = await service.localize(body, client)
        except Exception as error:
            raise _as_http(error) from error
    return web.Response(text=messages.as_text(found), content_type="application/json")


def _too_large(most: int, found: int | None) -> web.HTTPException:
    size = "more" if found is None else f"{found} bytes"
    message = f"body: expected at most {most} bytes; found {size}; raise --max_body_mb"
    return web.HTTPRequestEntityTooLarge(most, found or most, **_problem(message))


@contextlib.asynccontextmanager
async def _socket(request: web.Request):
    """Open a WebSocket that ends with the service."""
    sockets = request.app[_SOCKETS]
    if len(sockets) >= _READERS:
        raise _unavailable(f"service: expected at most {_READERS} WebSockets; found more")
    socket = web.WebSocketResponse(
        heartbeat=_SECONDS_BETWEEN_PINGS,
        timeout=2.0,
        max_msg_size=request.app[_SERVICE].limits.max_body,
    )
    sockets.add(socket)
    try:
        await socket.prepare(request)
        yield socket
    finally:
        sockets.discard(socket)


async def _stream(request: web.Request) -> web.StreamResponse:
    """Answer the messages of a WebSocket in order: text is JSON, binary JSON or .npz."""
    service, client = request.app[_SERVICE], _client(request)
    async with _socket(request) as socket:
        async for message in socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                continue
            body = message.data.encode() if isinstance(message.data, str) else message.data
            try:
                with service.admitted(client):
                    text = messages.as_text(await service.localize(body, client))
            except web.HTTPException as error:
                text = error.text or ""
            except Exception as error:
                text = _as_http(error).text or ""
            try:
                await asyncio.wait_for(socket.send_str(text), _SECONDS_TO_SEND)
            except (TimeoutError, ConnectionError):  # the client is gone, or does not read
                break
    return socket


async def _feed(request: web.Request) -> web.StreamResponse:
    """Send the answers to all clients; what the reader sends is ignored."""
    service = request.app[_SERVICE]
    async with _socket(request) as socket:
        reader = service.feed.join()

        async def send():
            await socket.send_str(messages.as_text({"service": service.status()}))
            while True:
                await socket.send_str(await reader.next())

        sending = asyncio.create_task(send())
        try:
            async for _ in socket:
                pass
        finally:
            service.feed.leave(reader)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await sending
    return socket


def application(service: LiveService) -> web.Application:
    """Return the web application of a service; it starts and ends the worker.

    Args:
      service: ready, or to be compiled with `LiveService.compile`.
    """
    app = web.Application(middlewares=[_guard], client_max_size=service.limits.max_body)
    app[_SERVICE], app[_SOCKETS] = service, set()
    for path in _PAGE:
        app.router.add_get(path, _page)
    app.router.add_get("/healthz", _health)
    app.router.add_post("/localize", _localize)
    app.router.add_get("/stream", _stream)
    app.router.add_get("/feed", _feed)

    async def worker(_: web.Application):
        working = asyncio.create_task(service.work())
        yield
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working

    async def end_sockets(app: web.Application) -> None:
        for socket in set(app[_SOCKETS]):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the service stops")

    app.cleanup_ctx.append(worker)
    app.on_shutdown.append(end_sockets)
    return app


async def run(
    service: LiveService, host: str, port: int, announce: Callable[[str], None] = print
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
      service: to compile and run.
      host: address to listen on.
      port: 0 takes a free one.
      announce: called with lines for the user: the address, "ready", and the end.

    Raises:
      OSError: the address cannot be used.
    """
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    with contextlib.suppress(NotImplementedError):  # on Windows, Ctrl-C interrupts
        for number in signals:
            loop.add_signal_handler(number, stopped.set)
    # The handler of a request ends with its client.
    runner = web.AppRunner(
        application(service), handler_cancellation=True, access_log=None, shutdown_timeout=5.0
    )
    compiling = None
    try:
        await runner.setup()
        site = web.TCPSite(runner, host, port)
        await site.start()
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        announce(f"listening on http://{shown}:{address[1]}; compiling, about 20 s")
        compiling = asyncio.create_task(service.compile())
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait([compiling, waiting], return_when=asyncio.FIRST_COMPLETED)
        if compiling.done():
            await compiling
            announce("ready")
        await waiting
        announce("stopping")
    finally:
        await runner.cleanup()
        service.close()
        if compiling is not None and not compiling.done():
            compiling.cancel()
        with contextlib.suppress(NotImplementedError):
            for number in signals:
                loop.remove_signal_handler(number)
    announce(f"stopped; {service.answered} requests answered, {service.queue.refused} refused")
