"""README says what is so: its commands, settings, routes and the answer it shows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.bundle.store import Bundle, load_bundle
from service.settings import Settings, load_settings
from tests.conftest import ROOT, prepare_with_command

README = (ROOT / "README.md").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def table(header: str) -> dict[str, list[str]]:
    """Rows of the table whose header starts so, by their first cell without backquotes."""
    lines = README[README.index(header) :].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_first_commands_are_run_and_test() -> None:
    commands = [line.split("#")[0].strip() for line in blocks("bash")[0].strip().splitlines()]
    assert commands == ["./scripts/run.sh", "./scripts/test.sh"]
    assert all((ROOT / command).stat().st_mode & 0o111 for command in commands)


def test_every_setting_is_in_the_table_with_its_default_and_nothing_else() -> None:
    rows = table("| variable | default |")
    assert list(rows) == [f"YOLOFOLD_{name.upper()}" for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        default, meaning = rows[f"YOLOFOLD_{name.upper()}"]
        assert default.strip("`") == ("" if field.default is None else str(field.default))
        assert meaning == field.description


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - {"bundle_dir", "state_dir"}))
def test_compose_passes_every_setting_on(name: str) -> None:
    """Bundles and state lie in volumes; all else is the operator's to set."""
    assert f"${{YOLOFOLD_{name.upper()}:-" in COMPOSE


def test_compose_keeps_state_in_its_volume_wherever_the_host_keeps_its_own() -> None:
    serve = yaml.safe_load(COMPOSE)["services"]["serve"]
    assert serve["environment"]["YOLOFOLD_STATE_DIR"] == "/state"
    assert "state:/state" in serve["volumes"]


def test_every_route_is_in_the_table_and_nothing_else(bundle: Bundle) -> None:
    paths = create_app(load_settings({}), bundle).openapi()["paths"]
    described = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert described | {"GET /", "GET /docs"} == set(table("| route | answer |"))


def test_the_answer_shown_is_the_answer_given(tmp_path: Path) -> None:
    """With the defaults: nothing is said but that the embedded weights are wanted."""
    prepare_with_command(tmp_path, weights="embedded")
    (prepared,) = (path.parent for path in tmp_path.glob("*/manifest.json"))
    (shown,) = (json.loads(text) for text in blocks("json"))
    path = re.search(r"file=@(\S+) http://127.0.0.1:8000/detect", README).group(1)
    with TestClient(create_app(load_settings({}), load_bundle(prepared))) as client:
        given = client.post("/detect", files={"file": (ROOT / path).read_bytes()}).json()
    assert shown["model"]["name"] == given["model"]["name"] and shown["image"] == given["image"]
    assert set(shown["timing_ms"]) == set(given["timing_ms"])
    assert len(shown["detections"]) == len(given["detections"])
    for expected, found in zip(shown["detections"], given["detections"], strict=True):
        assert (expected["name"], expected["class"]) == (found["name"], found["class"])
        # Another machine's kernels add in another order.
        assert expected["confidence"] == pytest.approx(found["confidence"], abs=1e-3)
        assert flat(expected["box"]) == pytest.approx(flat(found["box"]), abs=0.1)


def flat(box: dict[str, Any]) -> list[float]:
    return [box[key] for key in ("x1", "y1", "x2", "y2")]


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http|#)([^)]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()
