"""Servers that are up at once and loaded by turns, and the processor time that each has used."""

import os
import random
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from scripts.bench.pictures import DEFAULT, make_picture
from scripts.bench.process_tree import tree_processor_s
from scripts.bench.running import Running, ServerFailed
from scripts.bench.turns import Load, pictures_begun, start_ours, take_turns
from scripts.bench.upload import Address, form_body, post
from service.errors import BundleMissing
from tests.conftest import ROOT, RunningServer
from tests.scripts import stand_in_wrk

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


@pytest.fixture(scope="module")
def body() -> bytes:
    """The form with the default picture."""
    return form_body(make_picture(DEFAULT, ROOT / "samples").jpeg)


def test_each_load_has_its_turn_in_an_order_drawn_anew(
    server: RunningServer, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = stand_in_wrk.install(tmp_path, monkeypatch, answers=1)
    monkeypatch.setattr("scripts.bench.turns.PAUSE_S", 0.0)
    place = urlsplit(server.url)
    up = Running(Address(place.hostname, place.port), server.pid, 1.0)
    loads = {count: Load(up, body, count, f"?max_det={count}") for count in (1, 2, 3)}
    order, turns = random.Random(5), 3
    for _ in range(turns):
        found = take_turns(loads, 7, order)
        assert {name: loop.answers for name, loop in found.items()} == dict.fromkeys(loads, 1)
    calls = stand_in_wrk.read_calls(notes)
    assert all({"-d7s", f"-c{call.url[-1]}"} <= set(call.options) for call in calls)
    orders = [[int(call.url[-1]) for call in calls[first : first + 3]] for first in range(0, 3 * turns, 3)]
    assert len(calls) == 3 * turns and all(set(turn) == set(loads) for turn in orders)
    assert len({tuple(turn) for turn in orders}) > 1


def test_a_server_has_the_settings_named_and_counts_its_pictures(
    bundle_path: Path, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLOFOLD_WORKERS", "6")
    log, cores = tmp_path / "log", sorted(os.sched_getaffinity(0))
    with start_ours(bundle_path, cores, log, body, {"YOLOFOLD_THREADS": "3"}) as up:
        assert up.processor_s() > 0
        begun = pictures_begun(up.address)
        post(up.address, body, 30)
        assert pictures_begun(up.address) == begun + 1 > 1  # there was one by which it was found to answer
    with pytest.raises(ServerFailed, match="pictures"):
        pictures_begun(up.address)
    assert "threads per run: 3" in log.read_text() and "workers: 6" not in log.read_text()


def test_a_server_that_refuses_a_setting_says_why(bundle_path: Path, body: bytes, tmp_path: Path) -> None:
    start = start_ours(bundle_path, [0], tmp_path / "log", body, {"YOLOFOLD_THREADS": "many"})
    with pytest.raises(ServerFailed, match="YOLOFOLD_THREADS"), start:
        pass
    with pytest.raises(BundleMissing):
        start_ours(tmp_path, [0], tmp_path / "log", body)


def stat(folder: Path, pid: int, parent: int, session: int, ticks: tuple[int, int, int, int], state: str = "S") -> None:
    """A process in a folder like /proc; ``ticks``: user, system, and both of the children it has waited for."""
    (folder / str(pid)).mkdir()
    before = f"{state} {parent} {pid} {session} 0 -1 4194304 100 100 0 0"
    (folder / str(pid) / "stat").write_text(f"{pid} (py) S 1 (x) {before} {' '.join(map(str, ticks))} 20 0 1 0 900 0\n")


def test_processor_time_is_that_of_the_whole_tree_and_of_nobody_else(tmp_path: Path) -> None:
    stat(tmp_path, 10, 1, 10, (1, 2, 4, 8))
    stat(tmp_path, 11, 10, 10, (16, 32, 64, 128))
    stat(tmp_path, 12, 1, 10, (256, 0, 0, 0))  # its parent has ended
    stat(tmp_path, 13, 11, 13, (512, 0, 0, 0))  # in a session of its own
    stat(tmp_path, 14, 1, 14, (5000, 5000, 5000, 5000))
    assert tree_processor_s(10, tmp_path) == pytest.approx(1023 / os.sysconf("SC_CLK_TCK"))


def test_the_time_of_a_worker_stays_when_it_has_ended() -> None:
    worker = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}], check=True)\n"
    program = f"{worker}{BURN}print('done', flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert tree_processor_s(process.pid) >= 0.55  # the kernel counts in steps of 0.01 s
    finally:
        process.kill()
        process.communicate()
    assert tree_processor_s(process.pid) == 0
