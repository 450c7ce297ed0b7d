"""The benchmark with real processes: pacing, memory, the end of a process tree, and yolofold itself as a server."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from scripts.bench.answers import Found, WrongAnswer, read_answer, require_same
from scripts.bench.closed_loop import LoadFailed
from scripts.bench.open_loop import MOST_CONNECTIONS, run_open_loop, run_tallied
from scripts.bench.peers.roboflow_inference import write_package
from scripts.bench.peers.task import Task
from scripts.bench.pictures import DEFAULT, make_picture
from scripts.bench.process_tree import end_processes, peak_bytes, process_tree, processor_s
from scripts.bench.running import ServerFailed, require_answer, running
from scripts.bench.servers import REFERENCE, reference_server
from scripts.bench.upload import Address, form_body, post
from tests.conftest import ROOT

SERVICE_S = 0.01
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@contextlib.contextmanager
def one_at_a_time(
    answer: bytes, service_s: float = 0.0, served: list[int] | None = None, waiting: int | None = None
) -> Iterator[Address]:
    """A server that takes ``service_s`` for each request, one after another, and always answers the same.

    Args:
        served: gets the number of the connection for each request.
        waiting: requests it has at once; it refuses more with 503. None: any number.
    """
    ready = threading.Event()
    address: list[Address] = []
    stop: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        turn = asyncio.Lock()
        inside = opened = 0

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal inside, opened
            number, opened = opened, opened + 1
            with contextlib.suppress(asyncio.IncompleteReadError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split()[0])
                    await reader.readexactly(length)
                    if served is not None:
                        served.append(number)
                    if inside == waiting:
                        writer.write(REFUSAL)
                        continue
                    inside += 1
                    async with turn:
                        await asyncio.sleep(service_s)
                    inside -= 1
                    writer.write(answer)
            writer.close()

        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        address.append(Address("127.0.0.1", server.sockets[0].getsockname()[1]))
        stop.append((asyncio.get_running_loop(), asyncio.Event()))
        ready.set()
        await stop[0][1].wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        loop, event = stop[0]
        loop.call_soon_threadsafe(event.set)
        thread.join()


def test_latency_counts_from_the_time_a_request_was_due() -> None:
    requests, rate = 3 * MOST_CONNECTIONS, 10 / SERVICE_S
    with one_at_a_time(GOOD, SERVICE_S) as address:
        found = run_open_loop(address, b"body", rate, requests / rate)
    assert len(found.latencies_ms) == requests
    # Ten times what it can do: the last answer cannot come before all work is done. Counted from its sending, which
    # waits for a free connection, no request would take longer than the work of all connections.
    least = (requests * SERVICE_S - (requests - 1) / rate) * 1000
    assert max(found.latencies_ms) >= least > 2 * MOST_CONNECTIONS * SERVICE_S * 1000
    assert min(found.latencies_ms) >= SERVICE_S * 1000


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ],
    ids=["chunked", "closing"],
)
def test_answers_of_any_framing_are_read(answer: bytes) -> None:
    with one_at_a_time(answer) as address:
        assert len(run_open_loop(address, b"body", 50, 0.1).latencies_ms) == 5


@pytest.mark.parametrize("status", ["302 Found", "503 Service Unavailable"])
def test_a_refusal_fails_the_load(status: str) -> None:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    with one_at_a_time(answer) as address, pytest.raises(LoadFailed, match=status[:3]):
        run_open_loop(address, b"body", 50, 0.1)


def test_connections_take_turns() -> None:
    served: list[int] = []
    with one_at_a_time(GOOD, served=served) as address:
        run_open_loop(address, b"body", 100, 0.48)
    # A server of several processes would have to answer all in one of them if one connection were used again and again.
    assert {*range(16)} <= {*served}


def test_refusals_are_tallied() -> None:
    with one_at_a_time(GOOD, 10 * SERVICE_S, waiting=2) as address:
        found = run_tallied(address, b"body", 4 / SERVICE_S, 1)
    statuses = [answer.status for answer in found.answers]
    assert len(statuses) == 400 and set(statuses) == {200, 503}
    assert statuses[:3] == [200, 200, 503]
    assert all(answer.good == (answer.status == 200) for answer in found.answers)
    # One worked on and one waiting: no accepted request has to wait for a third.
    assert all(answer.latency_ms >= 10 * SERVICE_S * 1000 for answer in found.answers if answer.good)
    assert statuses.count(200) >= 3  # it lasts for ten times what one takes


def test_a_connection_that_breaks_is_tallied_as_no_answer() -> None:
    with one_at_a_time(b"HTTP/1.1 what\r\nContent-Length: 0\r\n\r\n") as address:
        assert {answer.status for answer in run_tallied(address, b"body", 50, 0.1).answers} == {0}
    assert {answer.status for answer in run_tallied(address, b"body", 50, 0.1).answers} == {0}  # nobody listens


def test_a_load_has_a_bound() -> None:
    with pytest.raises(ValueError, match="100000"):
        run_open_loop(Address("127.0.0.1", 9), b"body", 1e6, 10)


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
FAMILY = f"""
import subprocess, sys, time
for apart in (False, True):
    child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE, start_new_session=apart)
    child.stdout.readline()
print("up", flush=True)
time.sleep(60)
"""


def test_no_process_outlives_its_server() -> None:
    server = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdout is not None
    server.stdout.readline()
    family = process_tree(server.pid)
    assert len(family) == 3  # one of the children in a session of its own
    end_processes(server.pid, patience_s=0.2)
    server.wait(10)
    server.stdout.close()
    assert not [process for member in family for process in process_tree(member.pid)]


def test_memory_that_was_given_back_counts() -> None:
    held = 64_000_000
    program = f"import time; block = bytearray({held}); del block; print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert held < peak_bytes([process.pid]) < held + 60_000_000
        assert peak_bytes([process.pid, process.pid]) == 2 * peak_bytes([process.pid])
    finally:
        process.kill()
        process.communicate()


def test_the_time_of_processes_that_have_ended_is_the_runs_own() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    both = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)\n{burn}"
    before = processor_s()
    subprocess.run([sys.executable, "-c", both], check=True)
    assert processor_s() - before >= 0.55  # the kernel counts in steps of 0.01 s


#: The program as it is, but for what takes long; the second round is interrupted while its server is visited.
_INTERRUPTED = """
import signal, sys
import scripts.bench.__main__ as program
from scripts.bench.answers import Found
from scripts.bench.closed_loop import ClosedLoop
from scripts.bench.open_loop import OpenLoop
from scripts.bench.rounds import Bench, Ceiling, Expected, Visit

def visit(self, server, number, expected):
    if number == 2:
        signal.raise_signal(signal.SIGINT)
    loops = {cell: ClosedLoop(answers=9, seconds=1.0, p50_ms=1, p90_ms=2, p99_ms=3) for cell in self._plan.cells}
    return Visit(2.0, 3, loops, OpenLoop(10, [1.0], 0.1))

signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
program.shutil.which = lambda name: name
Bench._visit = visit
Bench._ask = lambda self, reference: Expected({name: [] for name in self._bodies}, {}, 1.0)
Bench._measure_ceilings = lambda self: {"ONNX Runtime in fp32": Ceiling(10, 10)}
sys.exit(program.main())
"""


def test_an_interrupted_run_leaves_its_whole_rounds(bundle_path: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", str(bundle_path), "--environments", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, *arguments, "--servers", REFERENCE, "--pictures", DEFAULT],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130 and "Whole rounds written: 1." in done.stderr, done.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(found["ceiling"]["rounds"]) == len(found["other_cores"]) == 1
    assert [len(server["rounds"]) for server in found["servers"]] == [1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"logs", "results.json", "results.md", "results.svg"}


@pytest.fixture(scope="module")
def body() -> bytes:
    """The form with the default picture."""
    return form_body(make_picture(DEFAULT, ROOT / "samples").jpeg)


def _task(bundle_path: Path) -> Task:
    return Task(0, 1, str(bundle_path / "model.onnx"), "", [], 0.41, {})


def test_roboflow_gets_the_same_graph_after_its_bytes_have_become_floats(bundle_path: Path, tmp_path: Path) -> None:
    task = _task(bundle_path)
    write_package(task, tmp_path)
    whole, rest = (ort.InferenceSession(path) for path in (task.graph, str(tmp_path / "weights.onnx")))
    size = whole.get_inputs()[0].shape[1]
    pixels = np.random.default_rng(5).integers(0, 256, (1, size, size, 3), np.uint8)
    planes = (pixels[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
    expected = whole.run(None, {"images": pixels})[0]
    np.testing.assert_array_equal(rest.run(None, {rest.get_inputs()[0].name: planes})[0], expected)


def test_yolofold_is_started_asked_loaded_and_ended(bundle_path: Path, body: bytes, tmp_path: Path) -> None:
    server = reference_server(bundle_path, Path(sys.executable))
    cores, log = sorted(os.sched_getaffinity(0)), tmp_path / "server.log"
    with running(server, _task(bundle_path), cores, log, body, read_answer) as up:
        _, answer = post(up.address, body, 30)
        reference = read_answer(answer)
        assert reference
        require_answer(up.address, body, lambda again: require_same(read_answer(again), reference, 0.41))
        moved = [Found(f.class_id + 1, f.confidence, f.xyxy) for f in reference]
        with pytest.raises(ServerFailed, match="wrongly"):
            require_answer(up.address, body, lambda again: require_same(read_answer(again), moved, 0.41))
        assert len(run_open_loop(up.address, body, 2, 1).latencies_ms) == 2
        assert 50_000_000 < up.peak_bytes() < 2_000_000_000
        assert up.startup_s > 0
    assert not process_tree(up.pid)


def test_a_server_that_does_not_start_says_why(tmp_path: Path, body: bytes) -> None:
    server = reference_server(tmp_path / "no-bundle", Path(sys.executable))
    start = partial(running, server, _task(tmp_path), sorted(os.sched_getaffinity(0)), tmp_path / "log", body)
    with pytest.raises(ServerFailed, match="no bundle"), start(read_answer):
        pass


def test_a_wrong_first_answer_leaves_a_server_out(bundle_path: Path, body: bytes, tmp_path: Path) -> None:
    def refuse(answer: bytes) -> None:
        raise WrongAnswer("it is too good")

    server = reference_server(bundle_path, Path(sys.executable))
    start = partial(running, server, _task(bundle_path), sorted(os.sched_getaffinity(0)), tmp_path / "log", body)
    with pytest.raises(ServerFailed, match="too good"), start(refuse):
        pass
