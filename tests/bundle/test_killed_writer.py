"""A preparation killed before each of its file operations, one after the other, by its own audit hook.

The writer is really killed. A whole ``prepare`` would take hours of that: instead it is looked at, before each of its
operations in the bundle folder, what a kill would leave at that moment, since that is all a kill leaves.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.bundle import store
from tests.conftest import ROOT, clean_environ

NAME = "embedded-320-auto-0123456789ab"
KEY = "embedded-320-auto"

#: Forks once per file operation; the child copies a real bundle through the real writer and dies before that
#: operation. Prints [wait status, name of the bundle found afterwards or null] of each, the last one unharmed.
PROGRAM = """
import json, os, shutil, signal, sys, threading
from pathlib import Path
from service.bundle import store

source, parent, name, key, replacing = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:6]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree", "tempfile.mkdtemp"}

def write(root):
    with store.bundle_writer(root, name) as folder:
        for file in sorted(source.iterdir(), key=lambda path: path.name == store.MANIFEST):
            data = file.read_bytes()
            with (folder / file.name).open("wb") as target:
                target.write(data[: len(data) // 2])
                target.flush()
                sys.audit("os.chmod", "half of a file is written")
                target.write(data[len(data) // 2 :])

def write_and_die(root, fatal):
    done = 0
    def hook(event, arguments):
        nonlocal done
        if event in CHANGES or (event == "open" and str(root) in str(arguments[0])):
            if done == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
    sys.addaudithook(hook)
    write(root)

for fatal in range(1000):
    root = parent / str(fatal)
    root.mkdir()
    if replacing == "True":
        write(root)
    child = os.fork()
    if child == 0:
        write_and_die(root, fatal)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = store.find_bundle(root, key)
    if found is not None:
        store.load_bundle(found)  # raises unless every hash is right
    for other in root.iterdir():
        if other != found and not (other / store.MANIFEST).exists():
            try:
                store.load_bundle(other)
                raise SystemExit(f"{other} was accepted")
            except store.BundleMissing:
                pass
    print(json.dumps([status, found and found.name]))
    shutil.rmtree(root)
    if status == 0:
        break
"""


@pytest.mark.parametrize("replacing", [False, True])
def test_a_writer_killed_before_any_operation_leaves_a_whole_bundle_or_none(
    replacing: bool, bundle_path: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, str(bundle_path), str(tmp_path), NAME, KEY, str(replacing)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    statuses, found = zip(*(json.loads(line) for line in done.stdout.splitlines()), strict=True)
    assert set(statuses[:-1]) == {-signal.SIGKILL} and statuses[-1] == 0
    assert len(statuses) > 3 * len(store.REQUIRED)  # each file's opening, half and flush, and the renames
    assert set(found) <= {None, NAME} and found[-1] == NAME
    if not replacing:
        assert list(found) == sorted(found, key=lambda name: name is not None)  # none until it is there for good


#: Runs ``prepare`` in this process. Prints [event, name of the bundle that serving would find or null] before each of
#: its changes in the bundle folder, and once more after the last.
WATCHED = """
import json, sys
from pathlib import Path
from service.bundle import store

root, key = Path(sys.argv[1]), sys.argv[2]
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "shutil.rmtree", "tempfile.mkdtemp"}
looking = False

def look(event):
    global looking
    looking = True
    try:
        found = store.find_bundle(root, key)
        if found is not None:
            store.load_bundle(found)  # raises unless every hash is right
        print(json.dumps([event, found and found.name]), flush=True)
    finally:
        looking = False

def hook(event, arguments):
    if not looking and event in CHANGES and str(root) in str(arguments):
        look(event)

sys.addaudithook(hook)
sys.argv = ["prepare", "prepare", "--latency-rounds", "12"]
from service.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
look("the end")
"""


def test_nothing_is_found_before_a_whole_prepare_is_through(tmp_path: Path) -> None:
    environ = clean_environ(weights="embedded", imgsz="128", bundle_dir=str(tmp_path))
    command = [sys.executable, "-c", WATCHED, str(tmp_path), "embedded-128-auto"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    events, found = zip(*(json.loads(line) for line in lines), strict=True)
    (bundle,) = tmp_path.iterdir()
    assert set(found) == {None, bundle.name} and found[-1] == bundle.name
    assert list(found) == sorted(found, key=lambda name: name is not None)  # none until it is there for good
    assert events[: found.index(bundle.name)].count("open") >= len(store.REQUIRED)
