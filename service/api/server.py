"""Runs the application under uvicorn and says where it listens once it really does."""

import gc
import logging
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from service.api.app import create_app, start_service
from service.api.connection import guarded_connection
from service.api.state import Service
from service.bundle.store import Bundle
from service.errors import AddressUnusable
from service.settings import Settings

#: uvicorn itself would wait for ever for a half-sent body after SIGTERM.
_SHUTDOWN_GRACE_S = 10
_KEEP_ALIVE_S = 15
_HEAD_TIMEOUT_S = 10.0
_WRITE_STALL_S = 30.0

#: uvicorn's own. What the parser of forms says of broken ones goes to those who sent them, not to the log as well.
_LOGGING = {**LOGGING_CONFIG, "loggers": {**LOGGING_CONFIG["loggers"], "python_multipart": {"level": "ERROR"}}}


class _AnnouncingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        log = logging.getLogger("uvicorn.error")
        log.addFilter(_is_no_bare_fault)
        try:
            await super().startup(sockets)
        except SystemExit as stop:
            # uvicorn ends with 3, which of our commands means that there is no bundle.
            if isinstance(stop.__context__, OSError):
                raise _address_unusable(self.config, stop.__context__) from stop
            raise SystemExit(1) from stop
        finally:
            log.removeFilter(_is_no_bare_fault)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # a wildcard is no address to go to
            self._announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def _is_no_bare_fault(record: logging.LogRecord) -> bool:
    """False of the system's words about an address, which uvicorn logs without saying which; our error has both."""
    return not isinstance(record.msg, OSError)


def _address_unusable(config: uvicorn.Config, fault: OSError) -> AddressUnusable:
    return AddressUnusable(
        f"The service cannot listen on {config.host}, port {config.port}: {fault.strerror or fault}. Set YOLOFOLD_HOST "
        "and YOLOFOLD_PORT (0 takes a free one)."
    )


def server_config(settings: Settings, bundle: Bundle, service: Service | None = None) -> uvicorn.Config:
    """How uvicorn serves the application of these settings; the arguments are ``create_app``'s."""
    return uvicorn.Config(
        create_app(settings, bundle, service),
        host=settings.host,
        port=settings.port,
        http=guarded_connection(
            min(_HEAD_TIMEOUT_S, settings.request_timeout_s), min(_WRITE_STALL_S, settings.request_timeout_s)
        ),
        ws="none",
        log_config=_LOGGING,
        log_level="warning",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_GRACE_S,
        server_header=False,
    )


def run_server(settings: Settings, bundle: Bundle, announce: Callable[[str, str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        announce: called once with the address and ``Service.runs_on``, when the network has passed its check and
            the port is open.

    Raises:
        SettingsError: the settings of the engine contradict each other.
        EngineError: the engine or device asked for is not there, none could be chosen, or the network cannot be run or
            computes something else here.
        BundleSchemaError: the stored picture or answer cannot be read.
        CalibrationUnusable: the drift calibration beside the bundle is damaged or another bundle's.
        AddressUnusable: the port could not be opened.
        SystemExit: the application could not be started, or was ended before it was (uvicorn has logged why).
    """
    # Not left to the lifespan: uvicorn would report a failure there as a traceback.
    service = start_service(settings, bundle)
    # What has been loaded stays: without this, each full collection walks through all of it and holds the event loop
    # (and every thread) for tens of milliseconds.
    gc.freeze()
    config = server_config(settings, bundle, service)
    server = _AnnouncingServer(config, lambda address: announce(address, service.runs_on))
    server.run()
    if not server.started:
        raise SystemExit(1)
