"""Headers every answer carries, as plain ASGI."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # Previews of the chosen file are blob: addresses; Swagger UI's style sheet embeds icons as data:.
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


class ResponseHeaders:
    """Adds security headers, and forbids caches to keep what a route did not mark as static."""

    def __init__(self, app: ASGIApp, static_path: str) -> None:
        self._app, self._static_prefix = app, static_path + "/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass HTTP on with the headers added, everything else as it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # no-cache lets browsers keep a file but makes them ask whether it changed.
        caching = "no-cache" if scope["path"].startswith(self._static_prefix) else "no-store"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", caching)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                headers.setdefault("Content-Security-Policy", _CSP)
            await send(message)

        await self._app(scope, receive, send_with_headers)
