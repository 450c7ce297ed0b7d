"""``python -m service bn-stats`` as a user runs it."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from service.bundle.health import WARNING_KINDS
from service.bundle.store import Bundle
from service.observatory.terminal import sparkline
from tests.conftest import ROOT, clean_environ, command
from tests.faults import COLLAPSED, EXACT, HUGE, VICTIM


@pytest.fixture
def environ(faulty_root: Path, faulty_bundle: Bundle) -> dict[str, str]:
    return clean_environ(bundle_dir=str(faulty_bundle.path), weights=str(faulty_root / "faulty.pt")) | {
        "COLUMNS": "250"
    }


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("bn-stats", *arguments), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120
    )


def test_the_table_has_a_line_per_layer_and_the_warnings_in_words(
    environ: dict[str, str], faulty_bundle: Bundle
) -> None:
    done = run(environ)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    for layer in faulty_bundle.batchnorm.layers:
        assert re.search(r"[▁-█]", lines[layer.name])
    assert "collapsed-layer" in lines[COLLAPSED]
    assert f"critical fp16-variance-overflow {HUGE}: 1 of" in done.stdout


def test_a_narrow_terminal_or_a_pipe_costs_no_column(environ: dict[str, str], faulty_bundle: Bundle) -> None:
    done = run(environ | {"COLUMNS": "80"})
    titles, *lines = done.stdout.splitlines()
    for title in ("BatchNorm", "Block", "Ch ", "min var", "Dead", "eps", "Prune", "int8 dB", "Status", "Warnings"):
        assert title in titles
    table = {line.split()[0]: line for line in lines if line.strip()}
    for layer in faulty_bundle.batchnorm.layers:
        assert f" {layer.status} " in table[layer.name]
    assert "collapsed-layer" in table[COLLAPSED]


def test_one_layer_in_depth_shows_every_array_and_its_ledger(environ: dict[str, str]) -> None:
    done = run(environ, "--layer", EXACT.replace("bn", "conv"))
    assert done.returncode == 0, done.stderr
    for name in ("gamma", "running_var", "law_std", "expected_low"):
        assert re.search(rf"^{name} +\S+ +.*[▁-█]", done.stdout, re.MULTILINE)
    assert re.search(rf"^{VICTIM} +0\.7 +0 +exact", done.stdout, re.MULTILINE)


def test_layers_are_chosen_and_ordered(environ: dict[str, str], faulty_bundle: Bundle) -> None:
    done = run(environ, "--severity", "critical", "--sort", "max_var", "--order", "desc")
    shown = re.findall(r"^(model\.\S+\.bn)", done.stdout, re.MULTILINE)
    warned = {w.layer for w in faulty_bundle.health.warnings if w.severity == "critical"}
    assert shown[0] == HUGE and set(shown) == warned


def test_json_is_what_the_service_answers(environ: dict[str, str], faulty_bundle: Bundle) -> None:
    document = json.loads(run(environ, "--json", "--sort", "name").stdout)
    assert document["schema_version"] == 3
    assert len(document["layers"]) == faulty_bundle.batchnorm.totals.layers
    assert len(document["layers"][0]["arrays"]["law_std"]) == document["layers"][0]["channels"]


def test_csv_is_written_to_the_file_named(environ: dict[str, str], tmp_path: Path) -> None:
    done = run(environ, "--csv", str(tmp_path / "layers.csv"), "--layer", EXACT)
    assert (done.returncode, done.stdout) == (0, "")
    header, row = (tmp_path / "layers.csv").read_bytes().decode().rstrip("\r\n").split("\r\n")
    assert header.startswith("name,conv,") and row.startswith(f"{EXACT},")


def test_csv_in_full_has_a_row_per_channel(environ: dict[str, str], faulty_bundle: Bundle, tmp_path: Path) -> None:
    assert run(environ, "--csv", str(tmp_path / "channels.csv"), "--detail", "full", "--layer", EXACT).returncode == 0
    (layer,) = (layer for layer in faulty_bundle.batchnorm.layers if layer.name == EXACT)
    header, *rows = (tmp_path / "channels.csv").read_text().splitlines()
    assert header.startswith("layer,channel,gamma,") and len(rows) == layer.channels
    done = run(environ, "--detail", "full")
    assert done.returncode == 2 and "--csv" in done.stderr


def test_prunable_channels_are_counted_by_either_rule(environ: dict[str, str]) -> None:
    by_threshold = json.loads(run(environ, "--json", "--prune-threshold", "0.9").stdout)["prunable"]
    assert (by_threshold["threshold"], by_threshold["percentile"]) == (0.9, None)
    percentile = 100 * by_threshold["share"]
    by_percentile = json.loads(run(environ, "--json", "--prune-percentile", str(percentile)).stdout)["prunable"]
    assert by_percentile["threshold"] == pytest.approx(0.9, abs=0.01)
    done = run(environ, "--prune-threshold", "0.9", "--prune-percentile", "5")
    assert done.returncode == 2 and "--prune-percentile" in done.stderr


def test_every_warning_is_explained_without_a_bundle(tmp_path: Path) -> None:
    done = run(clean_environ(bundle_dir=str(tmp_path)) | {"COLUMNS": "250"}, "--codes")
    assert done.returncode == 0
    assert all(f"\n{code} " in done.stdout for code in WARNING_KINDS)


def test_failures_name_what_is_wrong(environ: dict[str, str], tmp_path: Path) -> None:
    done = run(environ, "--layer", "model.2.cv1")
    assert done.returncode == 1 and "LayerNotFound" in done.stderr and EXACT in done.stderr
    assert run(environ, "--sort", "size").returncode == 2
    assert run(clean_environ(bundle_dir=str(tmp_path))).returncode == 3
    for csv, error in ((tmp_path / "missing" / "layers.csv", "ReportUnwritable"), (tmp_path, "IsADirectoryError")):
        done = run(environ, "--csv", str(csv))
        assert done.returncode == 1 and error in done.stderr and "Traceback" not in done.stderr


def test_it_needs_neither_torch_nor_the_server(environ: dict[str, str]) -> None:
    arguments = [command()[0], "-X", "importtime", "-m", "service", "bn-stats"]
    done = subprocess.run(arguments, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert not re.search(r"\|\s+(torch|ultralytics|onnxruntime|fastapi)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.0, 1.0], "█  ▄"), ([0.5] * 3, "  █ "), ([-1.0, 2.0, np.nan, np.inf], "    "), ([], "    ")],
)
def test_sparklines_count(values: list[float], expected: str) -> None:
    assert sparkline(np.array(values), 0.0, 1.0, bins=4) == expected


def test_a_sparkline_of_equal_values_has_one_bar() -> None:
    assert sparkline(np.full(5, 2.0), 2.0, 2.0, bins=4) == "█   "
