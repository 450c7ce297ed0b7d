"""A real uvicorn on the loopback interface, in this process so that tests can hold its workers."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from service.api.server import server_config
from service.api.state import Service
from service.bundle.store import Bundle
from service.settings import load_settings


@dataclass
class Serving:
    """A running server and the parts behind it."""

    url: str
    service: Service
    client: httpx.Client
    loop: asyncio.AbstractEventLoop

    @contextmanager
    def busy_workers(self) -> Iterator[None]:
        """Keep every worker occupied until the block ends."""
        release, pool = threading.Event(), self.service.pool
        started = [threading.Event() for _ in range(pool.workers)]

        def hold(mine: threading.Event) -> None:
            mine.set()
            release.wait(60)

        async def occupy() -> None:
            deadline = time.monotonic() + 120
            await asyncio.gather(*(pool.submit(lambda e=e: hold(e), deadline) for e in started))

        thread = threading.Thread(target=lambda: asyncio.run(occupy()))
        thread.start()
        try:
            assert all(event.wait(30) for event in started)
            yield
        finally:
            release.set()
            thread.join()


@contextmanager
def serving(bundle: Bundle, **settings: Any) -> Iterator[Serving]:
    """Serve ``bundle`` on an ephemeral port; ``settings`` replace the defaults."""
    with serving_config(server_config(load_settings({}, **settings), bundle)) as running:
        yield running


@contextmanager
def serving_config(config: uvicorn.Config) -> Iterator[Serving]:
    """Serve as ``config`` says, but on an ephemeral port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(config)
        started = threading.Event()
        loops = []

        async def run() -> None:
            loops.append(asyncio.get_running_loop())
            serve = asyncio.ensure_future(server.serve(sockets=[listener]))
            while not server.started and not serve.done():
                await asyncio.sleep(0.001)
            started.set()
            await serve

        def run_on_the_real_loop() -> None:
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(run())

        thread = threading.Thread(target=run_on_the_real_loop)
        thread.start()
        try:
            assert started.wait(60)
            assert server.started
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=60) as client:
                yield Serving(url, config.app.state.service, client, *loops)
        finally:
            server.should_exit = True
            thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until something that must happen has happened."""
    pause = threading.Event()
    for _ in range(30_000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it never happened")


def assert_problem(response: httpx.Response, status: int, slug: str, **members: Any) -> dict[str, Any]:
    """The one canonical shape of a failure."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    document = response.json()
    assert document["type"] == f"urn:yolofold:{slug}"
    assert document["status"] == status
    assert document["instance"] == response.request.url.path
    assert document["title"]
    assert document["detail"]
    known = {"type", "title", "status", "detail", "instance", "field", "limit", "retry_after", "near"}
    assert set(document) <= known
    for key, value in members.items():
        assert document[key] == value
    if status == 503:
        assert int(response.headers["retry-after"]) == document["retry_after"] >= 1
    for leak in ("Traceback", "/service/", "site-packages", ".py"):
        assert leak not in response.text
    return document
