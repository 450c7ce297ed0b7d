"""How requests and answers meet on a connection, as plain ASGI: bodies nobody read, and HEAD."""

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MOST_DRAINED_BYTES = 32_000_000
_MOST_DRAINED_S = 3.0


class HeadLikeGet:
    """Answers HEAD as GET is answered, for load balancers that probe with it; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass HEAD on as GET, everything else as it is."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class DrainUnreadBody:
    """Lets clients that send their whole body before they read see an answer given early.

    A connection closed over unread bytes is reset, and the reset takes the answer with it. So the answer goes out at
    once, but is not ended, which would close the connection, before the rest of the body has been received and
    discarded, within limits of size and time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Drain the bodies of HTTP requests, pass everything else on as it is."""
        if scope["type"] != "http" or not _announces_body(scope):
            await self._app(scope, receive, send)
            return
        begun = ended = False

        async def receive_noting_the_end() -> Message:
            nonlocal begun, ended
            begun = True
            message = await receive()
            ended = ended or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def drain() -> None:
            left = _MOST_DRAINED_BYTES
            while not ended and left > 0:
                left -= len((await receive_noting_the_end()).get("body", b""))

        async def send_then_drain(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start" and not begun and _waits_for_permission(scope):
                # Whether the body follows is the client's choice: what comes next could be either.
                MutableHeaders(scope=message)["Connection"] = "close"
            if is_last and not ended:
                await send({**message, "more_body": True})
                with suppress(TimeoutError):
                    await asyncio.wait_for(drain(), _MOST_DRAINED_S)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, receive_noting_the_end, send_then_drain)


def _announces_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _waits_for_permission(scope: Scope) -> bool:
    return Headers(scope=scope).get("expect", "").lower() == "100-continue"
