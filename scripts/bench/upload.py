"""The body that carries a picture to every server: a form with one file, as curl -F sends it."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

PATH = "/detect"
_BOUNDARY = "yolofold-bench-7d1f6c0a"
CONTENT_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"


@dataclass(frozen=True)
class Address:
    """Where a server listens. ``query`` belongs to the route that detects and begins with a question mark."""

    host: str
    port: int
    query: str = ""

    @property
    def url(self) -> str:
        """Of the route that detects."""
        return f"http://{self.host}:{self.port}{self.target}"

    @property
    def target(self) -> str:
        """Of the route that detects, as a request's first line has it."""
        return PATH + self.query


def form_body(jpeg: bytes) -> bytes:
    """The form as it goes over the wire, without the request's head."""
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="file"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return head.encode() + jpeg + f"\r\n--{_BOUNDARY}--\r\n".encode()


def post(address: Address, body: bytes, timeout_s: float) -> tuple[int, bytes]:
    """Send one form over a connection of its own: status and body of the answer.

    Raises:
        OSError: nobody listens, or no answer in time.
        http.client.HTTPException: what came is no HTTP.
    """
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        connection.request("POST", address.target, body, {"Content-Type": CONTENT_TYPE})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def get(address: Address, path: str, timeout_s: float) -> bytes:
    """The body of what a server answers to GET. Raises as ``post`` does."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def get_json(address: Address, path: str, timeout_s: float) -> Any:
    """What a server answers to GET. Raises as ``post`` does, and ValueError if it is no JSON."""
    return json.loads(get(address, path, timeout_s))
