"""Runs the application under uvicorn and says where it listens once it really does."""

import socket
from collections.abc import Callable

import uvicorn

from service.api.app import create_app
from service.api.connection import guarded_connection
from service.bundle.store import Bundle
from service.inference.engine import choose_providers
from service.settings import Settings

#: uvicorn itself would wait for ever for a half-sent body after SIGTERM.
_SHUTDOWN_GRACE_S = 10
_KEEP_ALIVE_S = 15
_HEAD_TIMEOUT_S = 10.0


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # a wildcard is no address to go to
            self._announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def server_config(settings: Settings, bundle: Bundle) -> uvicorn.Config:
    """How uvicorn serves the application of these settings."""
    return uvicorn.Config(
        create_app(settings, bundle),
        host=settings.host,
        port=settings.port,
        http=guarded_connection(min(_HEAD_TIMEOUT_S, settings.request_timeout_s)),
        ws="none",
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
        server_header=False,
    )


def run_server(settings: Settings, bundle: Bundle, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        announce: called once with the address, when the network has passed its first inference and the port is open.

    Raises:
        EngineError: the device asked for is not there.
        SystemExit: the port could not be opened or the network could not be loaded (uvicorn has logged why).
    """
    choose_providers(settings.device)
    server = _AnnouncingServer(server_config(settings, bundle), announce)
    server.run()
    if not server.started:
        raise SystemExit(1)
