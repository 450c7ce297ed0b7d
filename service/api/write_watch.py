"""Cuts off a client that takes nothing of its answer: it would keep the answer's memory and a socket for ever."""

import asyncio
import fcntl
import socket
import struct
import sys
import termios

#: ``struct linger`` of a socket that forgets what it could not send: closing alone would leave it to the kernel.
_FORGET_THE_REST = struct.pack("ii", 1, 0)


class WriteWatch:
    """Watches what one connection has still to send."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, patience_s: float) -> None:
        """``patience_s``: the client may go without taking a byte for so many seconds."""
        self._loop, self._transport, self._patience_s = loop, transport, patience_s
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Wait for progress from now on. To be called after a write, which would hide earlier progress."""
        self.end()
        if self._transport.get_write_buffer_size():
            self._timer = self._loop.call_later(self._patience_s, self._judge, self._untaken_bytes())

    def end(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _judge(self, untaken_before: int) -> None:
        if self._transport.get_write_buffer_size() and self._untaken_bytes() >= untaken_before:
            self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _FORGET_THE_REST)
            self._transport.abort()
        else:
            self.begin()

    def _untaken_bytes(self) -> int:
        return self._transport.get_write_buffer_size() + self._bytes_in_kernel()

    def _bytes_in_kernel(self) -> int:
        # The kernel takes more from us only when a good part of its megabytes is gone: looking at our own buffer
        # alone, a slow reader would seem to be none.
        try:
            answer = fcntl.ioctl(self._socket().fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:  # not Linux
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def _socket(self) -> socket.socket:
        found: socket.socket = self._transport.get_extra_info("socket")
        return found
