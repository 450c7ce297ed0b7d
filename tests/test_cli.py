"""The commands as a user runs them: exit codes, reuse, refusals, and a kill at any moment."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import onnx
import pytest
import torch
from fastapi.testclient import TestClient
from ultralytics.nn.tasks import SegmentationModel

from service.api.app import create_app
from service.bundle.latency import LatencyReport
from service.bundle.store import DEPLOYED, REFERENCE, bundle_key, find_bundle, load_bundle, sha256_file
from service.comparison import Tolerance
from service.errors import BundleMissing
from service.prepare.weights import EMBEDDED, embedded_head
from service.settings import load_settings
from tests.bundles import change_bias, change_both_graphs, rehash
from tests.conftest import IMGSZ, ROOT, SESSION_BUNDLE, RunningServer, clean_environ, command, running_server

RUNTIME = f"OpenVINO {version('openvino')}"
#: Corners are answered to six significant digits.
ROUNDED_PX = 0.01


def run(*arguments: str, timeout: float = 300, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=ROOT,
        env=clean_environ(**settings),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture
def prepared(bundle_root: Path) -> dict[str, str]:
    """Settings under which a bundle exists."""
    return {**SESSION_BUNDLE, "bundle_dir": str(bundle_root)}


def test_the_banner_says_what_is_served_where_and_how_to_try_it(server: RunningServer) -> None:
    assert re.search(r"yolofold serves yolo26n-codes [0-9a-f]{12} \(embedded weights, 5 classes", server.banner)
    assert re.search(r"on ONNX Runtime [\d.]+ \(CPUExecutionProvider\) in fp32, threads per run: \d+", server.banner)
    assert f"curl -F file=@samples/parcel.jpg {server.url}/detect" in server.banner


def test_the_banner_names_no_picture_that_is_not_there(
    bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with running_server(bundle_root, cwd=tmp_path) as server:
        assert f"curl -F file=@picture.jpg {server.url}/detect" in server.banner


def ask(server: RunningServer, picture: Path) -> dict:
    response = httpx.post(f"{server.url}/detect", files={"file": picture.read_bytes()}, timeout=60)
    return response.raise_for_status().json()


def answers(server: RunningServer, samples: list[Path]) -> list[dict]:
    """What it finds in every sample; the last of several times."""
    for picture in samples * 3:
        ask(server, picture)
    return [ask(server, picture) for picture in samples]


def peak_kb(server: RunningServer) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1))


def test_a_server_that_has_worked_holds_less_than_400_mb(server: RunningServer, samples: list[Path]) -> None:
    answers(server, samples)
    assert peak_kb(server) < 400_000


def test_openvino_serves_the_same(server: RunningServer, bundle_root: Path, samples: list[Path]) -> None:
    with running_server(bundle_root, engine="openvino") as other:
        runs_on = r"on OpenVINO [\d.]+ \(CPU\) in fp32, threads per run: \d+(, under load \d+)?, workers: \d+"
        assert re.search(runs_on, other.banner)
        given, held_kb = answers(other, samples), peak_kb(other)
        engine = httpx.get(f"{other.url}/model").json()["engine"]
        startup = httpx.get(f"{other.url}/model/fold").json()["startup_check"]
    tolerance = Tolerance(2 * startup["box_tolerance_px"], 2 * startup["score_tolerance"])
    compared = 0
    for wanted, found in zip(answers(server, samples), given, strict=True):
        assert [d["class"] for d in found["detections"]] == [d["class"] for d in wanted["detections"]]
        gain = IMGSZ / max(wanted["image"].values())
        for one, two in zip(wanted["detections"], found["detections"], strict=True):
            p = one["confidence"]
            assert two["confidence"] == pytest.approx(p, abs=tolerance.confidence(p) + 1e-6)  # as rounded in the answer
            apart = max(abs(one["box"][side] - two["box"][side]) for side in one["box"])
            assert apart <= tolerance.box_px / gain + ROUNDED_PX
            compared += 1
    assert compared > 10
    assert startup["matched"] == startup["boxes"] and startup["box_tolerance_px"] < 0.01
    assert (startup["engine"], startup["runtime"]) == (engine["provider"], engine["runtime"]) == ("CPU", RUNTIME)
    assert startup["precision"] == engine["precision"] == "fp32"
    assert held_kb < 400_000


def test_serve_refuses_what_contradicts_itself(prepared: dict[str, str]) -> None:
    done = run("serve", **prepared, port="0", precision="bf16")
    assert done.returncode == 1
    assert done.stderr.startswith("SettingsError: YOLOFOLD_PRECISION=bf16") and "Traceback" not in done.stderr


def test_bundle_prints_the_folder(prepared: dict[str, str], bundle_path: Path) -> None:
    done = run("bundle", **prepared)
    assert (done.returncode, done.stdout.strip()) == (0, str(bundle_path))


@pytest.mark.parametrize("name", ["bundle", "serve"])
def test_no_bundle_is_exit_3(name: str, tmp_path: Path) -> None:
    done = run(name, bundle_dir=str(tmp_path))
    assert done.returncode == 3
    assert "BundleMissing" in done.stderr and "python -m service prepare" in done.stderr


def test_a_bundle_is_reused_without_importing_torch(prepared: dict[str, str]) -> None:
    environ = clean_environ(**prepared)
    done = subprocess.run(
        [command()[0], "-X", "importtime", "-m", "service", "prepare"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Reusing" in done.stderr
    assert not re.search(r"\|\s+(torch|ultralytics)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    "arguments",
    [
        ("prepare", "--force"),
        ("recalibrate", "--data", "samples", "--prior", "1"),
        ("bn-diff", str(EMBEDDED), str(EMBEDDED)),
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("missing", ["torch", "service.prepare"])
def test_what_needs_the_prepare_extra_says_so_where_only_serving_is_installed(
    missing: str, arguments: tuple[str, ...], prepared: dict[str, str], bundle_path: Path, tmp_path: Path
) -> None:
    program = "from service.cli import main; main()"
    if missing == "torch":
        program = f"import sys; sys.modules['torch'] = None; {program}"
        root = ROOT
    else:  # as in the images that serve
        shutil.copytree(ROOT / "service", tmp_path / "service", ignore=shutil.ignore_patterns("prepare", "*.pt"))
        root = tmp_path
    before = set(bundle_path.parent.iterdir())
    done = subprocess.run(
        [command()[0], "-c", program, *arguments],
        cwd=root,
        env=clean_environ(**prepared),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"PrepareExtraMissing: `{arguments[0]}` needs {missing}, ")
    assert "python -m pip install '.[prepare]'" in done.stderr and len(done.stderr.splitlines()) == 1
    assert set(bundle_path.parent.iterdir()) == before


def test_another_hash_than_demanded_is_not_served(prepared: dict[str, str]) -> None:
    done = run("serve", **prepared, weights_sha256="0" * 64)
    assert done.returncode == 1 and "WeightsHashMismatch" in done.stderr and "prepare --force" in done.stderr


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The embedded checkpoint as a file of the user's."""
    return Path(shutil.copy(EMBEDDED, tmp_path / "best.pt"))


@pytest.fixture
def prepared_from_file(weights: Path, bundle_path: Path, tmp_path: Path) -> dict[str, str]:
    """Settings that name that file, and under which a bundle made of it exists."""
    shutil.copytree(bundle_path, tmp_path / "bundles" / f"{bundle_key(str(weights), IMGSZ, 'auto')}-0")
    return {"weights": str(weights), "imgsz": str(IMGSZ), "bundle_dir": str(tmp_path / "bundles")}


def test_new_weights_behind_the_same_path_are_told(weights: Path, prepared_from_file: dict[str, str]) -> None:
    def lines(*arguments: str, **settings: str) -> list[str]:
        return run(*arguments, **prepared_from_file | settings).stderr.splitlines()

    stopping = {"precision": "bf16"}  # which ONNX Runtime cannot have: said when the bundle has been found
    (reused,), (stopped,) = lines("prepare"), lines("serve", **stopping)
    assert reused.startswith("Reusing ") and stopped.startswith("SettingsError: ")
    with weights.open("ab") as stream:
        stream.write(b"trained further")
    for command_lines in (lines("prepare"), lines("serve", **stopping)[::-1]):
        assert command_lines[0] in (reused, stopped)
        (warning,) = command_lines[1:]
        assert warning.startswith(f"warning: {weights} is not the file that ")
        assert sha256_file(weights) in warning and sha256_file(EMBEDDED) in warning and "prepare --force" in warning


def test_weights_that_say_nothing_about_the_bundle_are_passed_over(
    weights: Path, prepared_from_file: dict[str, str]
) -> None:
    (bundle,) = Path(prepared_from_file["bundle_dir"]).iterdir()
    weights.write_bytes(b"other weights")
    named = run("prepare", **prepared_from_file | {"bundle_dir": str(bundle)})  # a bundle is named, not found
    os.truncate(weights, 1_000_000_001)
    large = run("prepare", **prepared_from_file)
    weights.unlink()
    gone = run("prepare", **prepared_from_file)
    for done in (named, large, gone):
        assert done.returncode == 0 and done.stderr.startswith("Reusing ") and len(done.stderr.splitlines()) == 1


def test_another_default_confidence_is_another_bundle(prepared: dict[str, str], bundle_path: Path) -> None:
    done = run("serve", **prepared, default_conf="0.31")
    assert done.returncode == 3 and "_conf0.31" in done.stderr
    named = prepared | {"bundle_dir": str(bundle_path)}
    done = run("serve", **named, default_conf="0.31")
    assert done.returncode == 1 and "YOLOFOLD_DEFAULT_CONF is 0.31" in done.stderr
    done = run("prepare", **named, default_conf="0.31")
    assert done.returncode == 1 and "YOLOFOLD_DEFAULT_CONF is 0.31" in done.stderr
    confidence = load_bundle(bundle_path).manifest.model.default_confidence
    done = run("bundle", **named, default_conf=str(confidence))
    assert (done.returncode, done.stdout.strip()) == (0, str(bundle_path))


def test_a_default_confidence_is_stored_and_served(tmp_path: Path, samples: list[Path]) -> None:
    settings = {"weights": "embedded", "imgsz": "320", "bundle_dir": str(tmp_path)}
    done = run("prepare", "--default-conf", "0.41", "--latency-rounds", "12", **settings)
    assert done.returncode == 0, done.stderr
    assert run("bundle", **settings).returncode == 3
    path = Path(run("bundle", **settings, default_conf="0.41").stdout.strip())
    with TestClient(create_app(load_settings({}), load_bundle(path))) as client:
        model = client.get("/model").json()["model"]
        assert model["default_confidence"] == 0.41
        assert model["head"]["kind"] == embedded_head(), "nobody asked for another"
        found = 0
        for picture in samples:
            data = picture.read_bytes()
            answer = client.post("/detect", content=data, headers={"Content-Type": "image/jpeg"}).json()
            everything = client.post("/detect?conf=0", content=data, headers={"Content-Type": "image/jpeg"}).json()
            above = [one for one in everything["detections"] if one["confidence"] > 0.41]
            assert answer["detections"] == above
            found += len(above)
        assert found > 0


def test_a_corrupt_bundle_is_not_served(prepared: dict[str, str], bundle_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / bundle_path.name
    copy.mkdir()
    for file in bundle_path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    with (copy / "model.onnx").open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\0\1\2\3")
    done = run("serve", **(prepared | {"bundle_dir": str(tmp_path)}))
    assert done.returncode == 3 and "BundleCorrupt" in done.stderr and "model.onnx" in done.stderr


def test_a_graph_that_computes_something_else_is_not_served(
    prepared: dict[str, str], bundle_path: Path, tmp_path: Path
) -> None:
    """All hashes fit, and both graphs each other: only its answer gives it away."""
    copy = Path(shutil.copytree(bundle_path, tmp_path / bundle_path.name))
    change_both_graphs(copy, "model.4.cv1", 1.5)
    settings = prepared | {"bundle_dir": str(tmp_path)}
    assert run("bundle", **settings).returncode == 0
    done = run("serve", **settings, port="0")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("SelfCheckFailed: CPUExecutionProvider of ONNX Runtime")
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_fold_is_not_served(prepared: dict[str, str], bundle_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_path, tmp_path / bundle_path.name))
    change_bias(copy / "model.onnx", "model.4.cv1", lambda bias: bias * 1.001)
    rehash(copy, "model.onnx")
    done = run("serve", **(prepared | {"bundle_dir": str(tmp_path)}), port="0")
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.startswith("BundleUncertified") and "/model.4/cv1/conv/Conv" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_unreadable_self_check_is_one_line(prepared: dict[str, str], bundle_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_path, tmp_path / bundle_path.name))
    (copy / "self_check.npz").write_bytes(b"nothing")
    rehash(copy, "self_check.npz")
    done = run("serve", **(prepared | {"bundle_dir": str(tmp_path)}), port="0")
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("BundleSchemaError") and "self_check.npz" in done.stderr


def test_a_damaged_bundle_is_prepared_again(prepared: dict[str, str], bundle_path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_path, tmp_path / bundle_path.name))
    # As a release wrote it that did not yet store a self-check.
    manifest = json.loads((copy / "manifest.json").read_text())
    for file in ("self_check.json", "self_check.npz"):
        (copy / file).unlink()
        del manifest["files"][file]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    settings = prepared | {"bundle_dir": str(tmp_path)}
    assert run("bundle", **settings).returncode == 3
    done = run("prepare", "--latency-rounds", "12", **settings)
    assert done.returncode == 0 and "BundleIncomplete" in done.stderr and "prepared again" in done.stderr
    assert run("bundle", **settings).returncode == 0


def test_bench_measures_a_bundle_and_leaves_it_alone(
    prepared: dict[str, str], bundle_path: Path, tmp_path: Path
) -> None:
    before = (bundle_path / "latency.json").read_bytes()
    file = tmp_path / "report.json"
    arguments = ("bench", "--rounds", "12", "--batch", "1", "--json", str(file))
    done = run(*arguments, timeout=900, **prepared, workers="3", threads="1", device="cpu")
    assert done.returncode == 0, done.stderr
    report = LatencyReport.model_validate_json(file.read_bytes())
    on_cpu = [series for series in report.series if series.device == "cpu"]
    assert [(series.batch, series.callers) for series in on_cpu] == [(1, 1), (1, 3)]
    assert report.threads == 1 and {series.rounds for series in report.series} == {12}
    assert all(arm.title in done.stdout for series in report.series for arm in series.arms)
    (cuda,) = (left for left in report.not_measured if left.name == "cuda")
    assert cuda.reason.startswith("YOLOFOLD_DEVICE=cpu ")
    assert (bundle_path / "latency.json").read_bytes() == before
    assert load_bundle(bundle_path)


def test_bench_says_in_one_line_why_a_graph_cannot_be_run(
    prepared: dict[str, str], bundle_path: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle_path, tmp_path / "copy"))
    for file in (
        REFERENCE,
        DEPLOYED,
    ):  # for pictures of another size than the bundle's, which only a run brings to light
        model = onnx.load(copy / file)
        for side in model.graph.input[0].type.tensor_type.shape.dim[1:3]:
            side.dim_value //= 2
        onnx.save(model, copy / file)
        rehash(copy, file)
    done = run("bench", "--rounds", "12", "--batch", "1", **prepared | {"bundle_dir": str(copy)})
    assert done.returncode == 1
    assert "MeasurementRefused: ONNX Runtime cannot run " in done.stderr and "Traceback" not in done.stderr


def test_bench_refuses_a_batch_of_nothing(prepared: dict[str, str]) -> None:
    done = run("bench", "--batch", "0", **prepared)
    assert done.returncode == 2 and "--batch" in done.stderr


def test_a_reused_bundle_must_have_the_hash_demanded(prepared: dict[str, str]) -> None:
    done = run("prepare", **prepared, weights_sha256="0" * 64)
    assert done.returncode == 1 and "WeightsHashMismatch" in done.stderr


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"bundle_dir": "/etc/passwd"}, "BundleDirUnusable"), ({"bundle_dir": "/proc/nowhere"}, "BundleDirUnusable")],
)
def test_a_useless_bundle_folder_is_said_at_once(settings: dict[str, str], error: str) -> None:
    done = run("prepare", weights="embedded", **settings)
    assert done.returncode == 3 and error in done.stderr and "Traceback" not in done.stderr


def test_a_device_that_is_not_there_is_one_line(prepared: dict[str, str]) -> None:
    done = run("serve", **prepared, device="cuda", port="0")
    assert done.returncode == 1 and "EngineError" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("fault", ["name", "address", "port"])
def test_an_address_that_cannot_be_listened_on_is_one_line(fault: str, prepared: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = {
            "name": ("nohost.invalid", 0),
            "address": ("192.0.2.1", 0),  # of a network for documentation, hence nobody's
            "port": taken.getsockname(),
        }[fault]
        done = run("serve", **prepared, host=host, port=str(port))
    assert done.returncode == 1, "3 would say that there is no bundle"
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"AddressUnusable: The service cannot listen on {host}, port {port}: ")
    assert "YOLOFOLD_HOST" in line and "YOLOFOLD_PORT" in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"weights": "nothing-here.pt"}, "WeightsNotFound"),
        ({"weights": "embedded", "weights_sha256": "0" * 64}, "WeightsHashMismatch"),
        ({"imgsz": "333"}, "YOLOFOLD_IMGSZ"),
        ({"imgsze": "320"}, "YOLOFOLD_IMGSZ"),
    ],
)
def test_prepare_refuses_in_one_line(settings: dict[str, str], error: str, tmp_path: Path) -> None:
    done = run("prepare", **settings, bundle_dir=str(tmp_path / "bundles"))
    assert done.returncode == 1
    assert error in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_download_server_that_never_answers_is_given_up_after_the_time_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections wait in its queue for ever
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        done = run("prepare", weights="yolo26x.pt", download_timeout_s="1", bundle_dir=str(tmp_path), timeout=60)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "WeightsDownloadFailed: yolo26x.pt is not on disk and its server cannot be reached" in done.stderr
    assert not list(tmp_path.rglob("manifest.json"))


def test_prepare_refuses_a_checkpoint_of_another_task_by_name(tmp_path: Path) -> None:
    network = SegmentationModel("yolo26n-seg.yaml", verbose=False)
    network.task = "segment"  # the trainer records it
    torch.save({"model": network, "ema": None, "train_args": {}, "epoch": -1}, tmp_path / "masks.pt")
    done = run("prepare", weights=str(tmp_path / "masks.pt"), bundle_dir=str(tmp_path / "bundles"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "UnsupportedModel: " in done.stderr and "for the task 'segment'" in done.stderr
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize(
    "moment", ["BatchNorm statistics", "Proof of the fold", "Export model.onnx", "Export reference.onnx"]
)
def test_a_killed_prepare_leaves_nothing_to_serve(moment: str, tmp_path: Path) -> None:
    environ = clean_environ(weights="embedded", imgsz="320", bundle_dir=str(tmp_path))
    process = subprocess.Popen(
        command("prepare"), cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    seen = any(line.startswith(moment) for line in process.stderr)  # returns as soon as the step has ended
    os.killpg(process.pid, signal.SIGKILL)
    assert seen and process.wait(timeout=30) == -signal.SIGKILL
    assert find_bundle(tmp_path, "embedded-320-auto") is None
    for leftover in tmp_path.iterdir():
        with pytest.raises(BundleMissing):
            load_bundle(leftover)
    assert run("serve", weights="embedded", imgsz="320", bundle_dir=str(tmp_path)).returncode == 3


def test_a_broken_form_is_told_its_sender_and_not_the_log(bundle_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    form = {"content-type": "multipart/form-data; boundary=b"}
    with running_server(bundle_root) as server:
        for body in (b"--c\r\n", b"no form"):
            assert httpx.post(f"{server.url}/detect", content=body, headers=form).status_code == 400
    assert "boundary" not in capfd.readouterr().err


def test_terminated_server_ends_cleanly(prepared: dict[str, str]) -> None:
    process = subprocess.Popen(
        command("serve"), cwd=ROOT, env=clean_environ(**prepared, port="0"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and "yolofold serves" in process.stdout.readline()
    start = time.monotonic()
    process.terminate()
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)
    assert time.monotonic() - start < 30


def test_a_terminated_prepare_clears_away_what_it_began(tmp_path: Path) -> None:
    environ = clean_environ(weights="embedded", imgsz="320", bundle_dir=str(tmp_path))
    process = subprocess.Popen(command("prepare"), cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(line.startswith("Export model.onnx") for line in process.stderr)
    process.terminate()
    process.stderr.read()
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_bn_stats_looks_for_its_tables_folder_before_anything_else(tmp_path: Path) -> None:
    table = tmp_path / "no" / "layers.csv"
    done = run("bn-stats", "--csv", str(table), weights="embedded", bundle_dir=str(tmp_path))
    assert done.returncode == 1, "3 would say that it has looked for the bundle"
    (line,) = done.stderr.splitlines()
    assert line == f"ReportUnwritable: {table} cannot be written: there is no folder {table.parent}."


def test_bench_looks_for_its_reports_folder_before_anything_else(tmp_path: Path) -> None:
    report = tmp_path / "no" / "report.json"
    done = run("bench", "--json", str(report), weights="embedded", bundle_dir=str(tmp_path))
    assert done.returncode == 1, "3 would say that it has looked for the bundle"
    assert "MeasurementRefused" in done.stderr and f"there is no folder {report.parent}" in done.stderr
