"""Drift over a real socket: calibrated by the real command, fed with clean and then with dark pictures."""

import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.app import start_service
from service.api.drift_schemas import DriftAnswer, ImageDrift
from service.bundle.store import MANIFEST, PROBE, Bundle, load_bundle, sha256_file
from service.drift.baseline import WINDOW
from service.drift.calibration import LEAST_PICTURES
from service.drift.layers import watch_layers
from service.drift.lesson import FIRST_PICTURES
from service.drift.shrinkage import shrunk_covariance
from service.errors import CalibrationUnusable
from service.inference.calibration_file import Learnt, calibration_path, save_calibration
from service.inference.images import decode_image
from service.inference.probe import Probe
from service.lint.faults import PICTURE_FAULTS
from service.lint.signatures import fit_signatures
from service.preprocessing.corruptions import darken
from service.preprocessing.letterbox import content_tensor, letterbox, plan_letterbox
from service.settings import load_settings
from tests.api.serving import Serving, assert_problem, serving, wait_until
from tests.conftest import ROOT, clean_environ, command
from tests.drift.photographs import as_png, cut_pictures
from tests.drift.readings import invented_calibration, invented_samples

PICTURE = {"content-type": "image/png"}
TENSORS = {"content-type": "application/octet-stream"}
SIDE = 192
IMAGE = "/model/drift/image"


def calibrate(bundle: Path, data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("calibrate", "--data", str(data), *arguments),
        cwd=ROOT,
        env=clean_environ(bundle_dir=str(bundle)),
        capture_output=True,
        text=True,
        timeout=600,
    )


def write_pictures(folder: Path, samples: list[Path], count: int) -> Path:
    folder.mkdir()
    for number, picture in enumerate(cut_pictures(samples, count, seed=0, side=SIDE)):
        (folder / f"{number:03}.png").write_bytes(as_png(picture))
    return folder


@pytest.fixture(scope="module")
def own_bundle(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in a folder of its own, where a calibration may lie beside it."""
    return Path(shutil.copytree(bundle_path, tmp_path_factory.mktemp("drift") / "bundle"))


@pytest.fixture(scope="module")
def calibrated(own_bundle: Path, samples: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    data = write_pictures(tmp_path_factory.mktemp("clean") / "data", samples, LEAST_PICTURES)
    done = calibrate(own_bundle, data, "--rate", "0.02")
    assert done.returncode == 0, done.stderr
    assert f"{LEAST_PICTURES} pictures" in done.stdout and "2.00% false alarms" in done.stdout
    assert {path.name for path in own_bundle.parent.iterdir()} == {
        own_bundle.name,
        f"{own_bundle.name}.calibration.npz",
    }
    return load_bundle(own_bundle)


@pytest.fixture(scope="module")
def server(calibrated: Bundle) -> Iterator[Serving]:
    with serving(calibrated, drift_cpu=1.0, workers=1, threads=1) as running:
        yield running


def get_drift(server: Serving) -> dict:
    response = server.client.get("/model/drift")
    assert response.status_code == 200, response.text
    DriftAnswer.model_validate(response.json())
    return response.json()


def feed(server: Serving, pictures: list[np.ndarray]) -> None:
    """Send pictures to be detected in, each when the sampler takes it."""
    drift = server.service.drift
    for picture in pictures:
        wait_until(lambda: drift.sampler.open)
        wanted = drift.monitor.report().sampled + 1
        assert server.client.post("/detect", content=as_png(picture), headers=PICTURE).status_code == 200
        wait_until(lambda wanted=wanted: drift.monitor.report().sampled == wanted)


def metrics(server: Serving) -> dict[str, float]:
    response = server.client.get("/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + "".join(f",{value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_dark_pictures_raise_the_alarm_and_clean_ones_do_not(server: Serving, samples: list[Path]) -> None:
    start = get_drift(server)
    assert (start["state"], start["sampled"], start["windows"], start["onset"]) == ("watching", 0, [], None)
    baseline = start["baseline"]
    assert (baseline["source"], baseline["pictures"]) == ("file", LEAST_PICTURES)
    assert baseline["false_alarm_rate"] == 0.02
    calibration = server.service.drift.monitor.calibration
    assert calibration is not None
    assert calibration.baseline.faults == tuple(fault.title for fault in PICTURE_FAULTS[1:])
    assert "yolofold_drift_score" not in metrics(server)

    pictures = cut_pictures(samples, 2 * WINDOW, seed=1, side=SIDE)
    feed(server, pictures[:WINDOW])
    clean = get_drift(server)
    assert (clean["state"], clean["problems"], clean["sampled"]) == ("watching", [], WINDOW)
    assert 0 < clean["windows"][0]["score"] <= baseline["threshold"]
    assert [layer["name"] for layer in clean["layers"]] == [p.batch_norm for p in server.service.bundle.probe.layers]

    feed(server, [darken(picture) for picture in pictures[WINDOW:]])
    dark = get_drift(server)
    assert dark["state"] == "drifting"
    assert dark["onset"] == dark["windows"][1]["begun_at"] > dark["windows"][0]["ended_at"]
    assert dark["windows"][1]["alarm"] and dark["windows"][1]["score"] > baseline["threshold"]
    assert any("darker" in problem for problem in dark["problems"])
    assert dark["against_baseline"]["symmetric_kl"] > clean["against_baseline"]["symmetric_kl"]

    found = metrics(server)
    assert found["yolofold_drift_alarm"] == 1 and found["yolofold_drift_pictures_total"] == 2 * WINDOW
    assert found["yolofold_drift_score"] == pytest.approx(dark["windows"][1]["score"])
    assert found["yolofold_drift_threshold"] == pytest.approx(baseline["threshold"])
    assert found["yolofold_jobs_begun_total"] == 2 * WINDOW
    assert 0 < found["yolofold_drift_cpu_seconds_total"] < found["process_cpu_seconds_total"]
    for figure in ("z_rms", "log_variance_ratio", "symmetric_kl", "wasserstein2"):
        for reference, whole in (("training", "training"), ("baseline", "against_baseline")):
            assert found[f"yolofold_drift_{figure},{reference}"] == pytest.approx(dark[whole][figure])
            for layer in dark["layers"]:
                name = f"yolofold_drift_layer_{figure},{layer['name']},{reference}"
                assert found[name] == pytest.approx(layer[reference][figure])


def test_one_image_against_numpy(server: Serving, samples: list[Path]) -> None:
    data, bundle = samples[1].read_bytes(), server.service.bundle
    before = get_drift(server)["sampled"]
    response = server.client.post(f"{IMAGE}?channels=7", content=data, headers={"content-type": "image/jpeg"})
    assert response.status_code == 200, response.text
    answer = response.json()
    ImageDrift.model_validate(answer)
    assert get_drift(server)["sampled"] == before

    picture = decode_image(data, max_pixels=10**8)
    plan = plan_letterbox(picture.shape[1], picture.shape[0], bundle.manifest.model.input.height)
    reading = Probe(bundle.probe_graph).measure(content_tensor(letterbox(picture, plan), plan))
    eps = {layer.name: layer.eps for layer in bundle.batchnorm.layers}
    everything, start = [], 0
    for probed in bundle.probe.layers:
        part, start = slice(start, start + probed.channels), start + probed.channels
        arrays = bundle.batchnorm_arrays(probed.batch_norm, ("gamma", "beta", "running_var"))
        gamma, mu, var = (arrays[name].astype(np.float64) for name in ("gamma", "beta", "running_var"))
        s2 = gamma**2 * var / (var + eps[probed.batch_norm])
        m, v = reading.means[part], np.maximum(reading.variances[part], 1e-6)
        kl = 0.5 * (np.log(s2 / v) + (v + (m - mu) ** 2) / s2 - 1)
        kl += 0.5 * (np.log(v / s2) + (s2 + (m - mu) ** 2) / v - 1)
        w2 = np.sqrt((m - mu) ** 2 + (np.sqrt(v) - np.sqrt(s2)) ** 2)
        rows = zip((m - mu) / np.sqrt(s2), np.log(v / s2), kl, w2, s2, strict=True)
        everything += [(probed.batch_norm, c, *row[:4]) for c, row in enumerate(rows) if row[4] > 1e-6]
    everything.sort(key=lambda row: -row[4])
    assert len(answer["channels"]) == 7
    for found, (layer, channel, z, ratio, kl, w2) in zip(answer["channels"], everything, strict=False):
        assert (found["layer"], found["channel"]) == (layer, channel)
        figures = [found[name] for name in ("z", "log_variance_ratio", "symmetric_kl", "wasserstein2")]
        assert figures == pytest.approx([z, ratio, kl, w2], rel=1e-9)
    whole = [row[4] for row in everything]
    assert answer["training"]["channels"] == len(whole)
    assert answer["training"]["symmetric_kl"] == pytest.approx(np.mean(whole), rel=1e-9)
    order = [layer["training"]["symmetric_kl"] for layer in answer["layers"]]
    assert order == sorted(order, reverse=True)
    assert answer["score"] > 0 and answer["figures"]["luminance_mean"] == pytest.approx(reading.figures[0])


@pytest.mark.parametrize("channels", ["0", "101", "many"])
def test_a_number_of_channels_out_of_range(server: Serving, channels: str) -> None:
    response = server.client.post(f"{IMAGE}?channels={channels}", content=b"x", headers=PICTURE)
    assert_problem(response, 422, "invalid-parameter", field="channels")


@pytest.mark.parametrize("route", ["/model/drift", "/metrics"])
def test_parameters_that_do_not_exist(server: Serving, route: str) -> None:
    assert_problem(server.client.get(route, params={"layer": "x"}), 422, "unknown-parameter")


def test_what_is_no_image(server: Serving) -> None:
    assert_problem(server.client.post(IMAGE, content=b"no image", headers=PICTURE), 415, "unsupported-image")
    assert_problem(server.client.post(IMAGE, content=b"", headers=PICTURE), 400, "empty-body")


def test_turned_off_it_samples_nothing_and_still_measures_an_image(bundle: Bundle, samples: list[Path]) -> None:
    (picture,) = cut_pictures(samples, 1, seed=2, side=SIDE)
    with serving(bundle, drift_cpu=0.0, workers=1, threads=1) as running:
        assert running.client.post("/detect", content=as_png(picture), headers=PICTURE).status_code == 200
        answer = get_drift(running)
        assert (answer["state"], answer["sampled"], answer["cpu_share"]) == ("off", 0, 0.0)
        response: httpx.Response = running.client.post(IMAGE, content=as_png(picture), headers=PICTURE)
        assert response.status_code == 200 and response.json()["score"] is None


def test_without_a_file_it_calibrates_itself(bundle: Bundle, samples: list[Path]) -> None:
    with serving(bundle, drift_cpu=1.0, workers=1, threads=1) as running:
        feed(running, cut_pictures(samples, 2, seed=3, side=SIDE))
        answer = get_drift(running)
        assert (answer["state"], answer["baseline"]["source"]) == ("calibrating", "first_pictures")
        assert (answer["baseline"]["pictures"], answer["baseline"]["wanted"]) == (2, 256)


def offer(server: Serving, pictures: list[np.ndarray]) -> None:
    """As ``feed``, past the network."""
    drift, size = server.service.drift, server.service.bundle.manifest.model.input.height
    for picture in pictures:
        wait_until(lambda: drift.sampler.open)
        wanted = drift.monitor.report().sampled + 1
        plan = plan_letterbox(picture.shape[1], picture.shape[0], size)
        drift.sampler.offer(plan, letterbox(picture, plan))
        wait_until(lambda wanted=wanted: drift.monitor.report().sampled == wanted)


def test_the_first_pictures_served_teach_faults_as_a_folder_does(bundle: Bundle, samples: list[Path]) -> None:
    flat = [picture[::5] for picture in cut_pictures(samples, FIRST_PICTURES + WINDOW, seed=4, side=SIDE)]
    dark = [darken(picture) for picture in flat[FIRST_PICTURES:]]
    sent = io.BytesIO()
    size = bundle.manifest.model.input.height
    np.save(sent, [letterbox(picture, plan_letterbox(*picture.shape[1::-1], size)) for picture in dark[:8]])
    with serving(bundle, drift_cpu=1.0, workers=1, threads=1) as running:
        offer(running, flat[: FIRST_PICTURES - 1])
        gathering = get_drift(running)
        assert (gathering["state"], gathering["baseline"]["faults"]) == ("calibrating", [])
        assert not running.client.post("/model/lint", content=sent.getvalue(), headers=TENSORS).json()["calibrated"]
        offer(running, flat[FIRST_PICTURES - 1 : FIRST_PICTURES])
        watching = get_drift(running)
        assert (watching["state"], watching["baseline"]["pictures"]) == ("watching", FIRST_PICTURES)
        assert watching["baseline"]["faults"] == [fault.title for fault in PICTURE_FAULTS[1:]]
        offer(running, dark)
        drifting = get_drift(running)
        assert drifting["state"] == "drifting" and drifting["windows"][-1]["alarm"]
        assert any("look darker than before" in problem for problem in drifting["problems"])
        assert any("direction of a known fault, darker than before" in problem for problem in drifting["problems"])
        lint = running.client.post("/model/lint", content=sent.getvalue(), headers=TENSORS).json()
        assert lint["calibrated"] and lint["taught_by"] == "first_pictures"
        assert lint["probabilities"]["dark"] == max(lint["probabilities"].values())


def test_a_damaged_calibration_stops_the_start(bundle_path: Path, tmp_path: Path) -> None:
    copy = load_bundle(Path(shutil.copytree(bundle_path, tmp_path / "bundle")))
    calibration_path(copy).write_bytes(b"damaged")
    with pytest.raises(CalibrationUnusable, match=r"calibration\.npz cannot be read"):
        start_service(load_settings({}, threads=1), copy)


def test_calibrate_refuses_what_it_cannot_use(own_bundle: Path, samples: list[Path], tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", samples, 4)
    for number in range(LEAST_PICTURES):
        shutil.copy(data / "000.png", data / f"again-{number}.png")
    done = calibrate(own_bundle, data)
    assert done.returncode == 1 and "holds 4 different pictures" in done.stderr.replace("\n", " ")
    for number in range(LEAST_PICTURES):  # enough that differ, if only in what follows the picture
        (data / f"again-{number}.png").write_bytes((data / "000.png").read_bytes() + bytes([number]))
    (data / "001.png").write_bytes(b"broken")
    done = calibrate(own_bundle, data)
    assert done.returncode == 1 and "001.png" in done.stderr.replace("\n", "")
    done = calibrate(own_bundle, tmp_path / "nothing")
    assert done.returncode == 1 and "holds 0 different pictures" in done.stderr.replace("\n", " ")


@pytest.fixture
def lawless(bundle_path: Path, tmp_path: Path) -> Bundle:
    """A bundle whose probed convolutions came without a BatchNorm."""
    copy = Path(shutil.copytree(bundle_path, tmp_path / "lawless"))
    probe = json.loads((copy / PROBE).read_text())
    for layer in probe["layers"]:
        layer["batch_norm"] = None
    (copy / PROBE).write_text(json.dumps(probe))
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][PROBE] = {"sha256": sha256_file(copy / PROBE), "bytes": (copy / PROBE).stat().st_size}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    bundle = load_bundle(copy)
    baseline = invented_calibration(bundle)
    names = [fault.name for fault in PICTURE_FAULTS]
    features = invented_samples(bundle, 5 * len(names)).features(watch_layers(bundle).channels)
    taught = fit_signatures(features.reshape(5, len(names), -1), names, shrunk_covariance, np.random.default_rng(0))
    save_calibration(Learnt(baseline, taught), bundle)
    return bundle


def test_without_any_batchnorm_scores_against_training_are_null(lawless: Bundle, samples: list[Path]) -> None:
    with serving(lawless, drift_cpu=1.0, workers=1, threads=1) as running:
        monitor = running.service.drift.monitor
        reading = running.service.drift.probe.measure(np.zeros((3, 64, 64), np.float32))
        for second in range(WINDOW):
            monitor.add(reading, float(second))
        answer = get_drift(running)
        assert answer["training"] is None and answer["against_baseline"]["channels"] > 0
        assert all(layer["training"] is None and layer["baseline"]["channels"] > 0 for layer in answer["layers"])
        assert answer["windows"][0]["score"] > 0 and answer["state"] == "drifting"
        references = {name.split(",")[-1] for name in metrics(running) if "drift_layer" in name}
        assert references == {"baseline"}
        sent = {"content": samples[0].read_bytes(), "headers": {"content-type": "image/jpeg"}}
        image = running.client.post(IMAGE, **sent)
        assert image.status_code == 200, image.text
        ImageDrift.model_validate(image.json())
        assert (image.json()["training"], image.json()["channels"]) == (None, [])
        assert image.json()["score"] > 0 and image.json()["layers"][0]["baseline"]["channels"] > 0
        lint = running.client.post("/model/lint", **sent)
        assert lint.status_code == 200, lint.text
        assert lint.json()["scale"] == {"taken_for": "none", "certain": True, "distances": {}}
