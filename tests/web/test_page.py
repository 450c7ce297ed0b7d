"""The page and the API documentation in a real browser, against the real server."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from service.bundle.store import Bundle
from tests.conftest import ROOT, running_server
from tests.tuning.measuring_process import KILLED, plant_in_measuring_process


@pytest.fixture
def complaints() -> list[str]:
    """What the browser found fault with: scripts, styles, requests."""
    return []


@pytest.fixture
def page(browser: Browser, server_url: str, complaints: list[str]) -> Iterator[Page]:
    """The page, loaded, with every complaint noted."""
    with opened(browser, server_url, complaints) as page:
        yield page


@contextmanager
def opened(browser: Browser, url: str, complaints: list[str]) -> Iterator[Page]:
    """The page of the server at ``url``, loaded, with every complaint noted."""

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("request", lambda r: None if r.url.startswith((url, "blob:", "data:")) else complaints.append(r.url))
    page.goto(url)
    yield page
    page.close()


def test_the_model_and_its_batchnorm_are_shown(page: Page, bundle: Bundle, complaints: list[str]) -> None:
    expect(page.locator("#model-line")).to_contain_text(bundle.manifest.model.version)
    expect(page.locator("#model-line")).to_contain_text("embedded weights")
    expect(page.locator("#model-line")).to_contain_text(
        re.compile(r"ONNX Runtime [\d.]+ \(CPU, fp32\) with \d+ thread")
    )
    expect(page.locator("#layers tr")).to_have_count(bundle.batchnorm.totals.layers)
    expect(page.locator("#arms tbody")).to_have_count(len(bundle.latency.series))
    expect(page.locator("#arms tr.arm")).to_have_count(sum(len(series.arms) for series in bundle.latency.series))
    expect(page.locator("#verdicts li")).to_have_count(len(bundle.latency.series[0].comparisons))
    expect(page.locator("#not-measured li")).to_have_count(len(bundle.latency.not_measured))
    expect(page.locator("#warning-list li")).to_have_count(len(bundle.health.warnings))
    assert complaints == []


def test_an_engine_that_could_not_be_chosen_is_warned_of(
    browser: Browser,
    page: Page,
    bundle_root: Path,
    tmp_path: Path,
    complaints: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expect(page.locator("#model-line")).to_contain_text("ONNX Runtime")
    expect(page.locator("#engine-warning")).to_be_hidden()  # all is as the settings say
    plant_in_measuring_process(tmp_path / "planted", monkeypatch, KILLED)
    settings = {"engine": "auto", "threads": "1", "workers": "1", "state_dir": str(tmp_path)}
    with running_server(bundle_root, **settings) as server, opened(browser, server.url, complaints) as theirs:
        warning = httpx.get(f"{server.url}/model").json()["engine_warning"]
        assert "could not measure" in warning
        shown = theirs.get_by_role("status").filter(has_text="Warning")
        expect(shown).to_be_visible()
        expect(shown).to_have_text(f"Warning: {warning}")
        expect(shown).to_have_class("warning")
        expect(theirs.locator("#model-line")).to_contain_text("ONNX Runtime")
    assert complaints == []


def test_the_proof_of_the_fold_is_shown(page: Page, bundle: Bundle, complaints: list[str]) -> None:
    lines = page.locator("#proofs li")
    expect(lines).to_have_count(3)
    worst = max(bundle.certificate.layers, key=lambda layer: layer.relative_error / layer.tolerance)
    expect(lines.nth(0)).to_contain_text(worst.name)
    expect(lines.nth(1)).to_contain_text(f"on {len(bundle.certificate.end_to_end)} pictures")
    expect(lines.nth(2)).to_contain_text(f"repeated {bundle.self_check.rows} of {bundle.self_check.rows} stored boxes")
    expect(page.locator("#not-folded")).to_contain_text("No BatchNorm is left")
    assert complaints == []


@pytest.mark.parametrize(
    ("highest", "says"), [(0.0, "answered no box in"), (0.012, "repeated the highest confidence to")]
)
def test_a_start_up_check_without_boxes_is_not_said_to_repeat_any(
    browser: Browser, server_url: str, highest: float, says: str
) -> None:
    answer = httpx.get(f"{server_url}/model/fold").json()
    answer["startup_check"] |= {"boxes": 0, "matched": 0, "highest_confidence": highest}
    page = browser.new_page()
    page.route("**/model/fold", lambda route: route.fulfill(json=answer))
    page.goto(server_url)
    expect(page.locator("#proofs li").nth(2)).to_contain_text(says)
    page.close()


def test_layers_are_filtered_by_status_and_text(page: Page, bundle: Bundle) -> None:
    expect(page.locator("#layers tr")).to_have_count(bundle.batchnorm.totals.layers)
    page.locator("#status").select_option("dropped")
    expect(page.locator("#layers tr:visible")).to_have_count(bundle.batchnorm.totals.dropped)
    page.locator("#status").select_option("folded")
    page.locator("#search").fill("depthwise")
    expect(page.locator("#layers tr:visible")).to_have_count(8)


def test_a_picture_is_detected_and_drawn(page: Page, bundle: Bundle, complaints: list[str]) -> None:
    page.locator("#file").set_input_files(ROOT / "samples" / "parcel.jpg")
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#confidence")).to_have_value(str(bundle.manifest.model.default_confidence))
    expect(page.locator("#timing")).to_contain_text(re.compile(r"\d"))
    page.locator("#confidence").fill("0.05")
    low = page.locator("#detections tr").count()
    page.locator("#confidence").fill("0.95")
    assert page.locator("#detections tr").count() <= low
    # The picture fills the canvas: its middle is the parcel's white label, not the blank canvas.
    pixel = page.evaluate(
        "() => { const c = document.getElementById('canvas');"
        " return [...c.getContext('2d').getImageData(c.width / 2, c.height * 0.6, 1, 1).data]; }"
    )
    assert pixel[3] == 255 and min(pixel[:3]) > 100
    assert complaints == []


def test_the_image_is_held_against_training(page: Page, server_url: str, complaints: list[str]) -> None:
    picture = ROOT / "samples" / "shelf.jpg"
    with picture.open("rb") as file:
        drift = httpx.post(f"{server_url}/model/drift/image", files={"file": file}).raise_for_status().json()
    expect(page.locator("#drift-state")).not_to_be_empty()
    expect(page.locator("#hold")).to_be_disabled()
    page.locator("#file").set_input_files(picture)
    page.locator("#hold").click()
    expect(page.locator("#image-title")).to_contain_text(f"{drift['training']['symmetric_kl']:.2f} nats a channel")
    judged = [layer for layer in drift["layers"] if layer["training"] is not None]
    rows = page.locator("#image-layers tr")
    expect(rows).to_have_count(len(judged))
    expect(rows.first).to_contain_text(judged[0]["name"])
    expect(page.locator("#image-findings")).to_contain_text("judged once there is a calibration")
    page.locator("#file").set_input_files(ROOT / "samples" / "parcel.jpg")
    expect(page.locator("#image-drift")).to_be_hidden()
    assert complaints == []


def test_what_is_no_image_is_explained(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    page.locator("#file").set_input_files(tmp_path / "notes.jpg")
    expect(page.locator("#problem")).to_contain_text("JPEG")


def test_a_narrow_screen_does_not_scroll_sideways(page: Page, bundle: Bundle) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.locator("#layers tr")).to_have_count(bundle.batchnorm.totals.layers)
    page.locator("#file").set_input_files(ROOT / "samples" / "parcel.jpg")
    expect(page.locator("#result")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_documentation_works_offline(page: Page, server_url: str, complaints: list[str]) -> None:
    page.wait_for_load_state("networkidle")  # or leaving would abort what the page still asks for
    page.goto(f"{server_url}/docs")
    expect(page.locator(".opblock-summary-path").first).to_be_visible()
    assert page.locator(".opblock").count() >= 6
    assert complaints == []
