"""Settings: where they come from, which wins, and what is refused."""

import pytest

from service.errors import SettingsError
from service.settings import Settings, load_settings


def test_defaults_without_an_environment() -> None:
    settings = load_settings({})
    assert (settings.weights, settings.host, settings.port, settings.imgsz) == (
        "auto",
        "127.0.0.1",
        8000,
        640,
    )


def test_the_command_line_wins_over_the_environment() -> None:
    settings = load_settings({"YOLOFOLD_PORT": "9000", "YOLOFOLD_IMGSZ": "320"}, port=9001, imgsz=None)
    assert (settings.port, settings.imgsz) == (9001, 320)


def test_an_empty_variable_is_unset() -> None:
    settings = load_settings({"YOLOFOLD_WEIGHTS_SHA256": "", "YOLOFOLD_PORT": "", "YOLOFOLD_DEFAULT_CONF": ""})
    assert (settings.port, settings.default_conf) == (8000, None)


def test_the_real_environment_is_not_consulted_when_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOFOLD_PORT", "1234")
    assert load_settings({}).port == 8000


def test_an_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"YOLOFOLD_IMGSIZE.*YOLOFOLD_IMGSZ"):
        load_settings({"YOLOFOLD_IMGSIZE": "640"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMGSZ", "333"),
        ("IMGSZ", "96"),
        ("IMGSZ", "4096"),
        ("PORT", "70000"),
        ("PORT", "http"),
        ("DEVICE", "tpu"),
        ("ENGINE", "coreml"),
        ("PRECISION", "int4"),
        ("HEAD", "both"),
        ("DEFAULT_CONF", "1.01"),
        ("DEFAULT_CONF", "-0.1"),
        ("DEFAULT_CONF", "nan"),
        ("DEFAULT_CONF", "high"),
        ("QUEUE_SIZE", "0"),
        ("MAX_UPLOAD_BYTES", "-1"),
        ("MAX_BATCH_IMAGES", "0"),
        ("MAX_BATCH_IMAGES", "1001"),
        ("MAX_PIXELS", "0"),
        ("REDUCED_DECODE", "half"),
        ("REQUEST_TIMEOUT_S", "0"),
        ("WEIGHTS_SHA256", "abc"),
        ("DRIFT_CPU", "-0.1"),
        ("DRIFT_CPU", "1.01"),
        ("DRIFT_CPU", "nan"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"YOLOFOLD_{name}='{value}'"):
        load_settings({f"YOLOFOLD_{name}": value})


def test_a_hash_may_be_written_in_capitals() -> None:
    assert load_settings({"YOLOFOLD_WEIGHTS_SHA256": "AB" * 32}).weights_sha256 == "ab" * 32


@pytest.mark.parametrize(
    ("given", "cores", "callers"),
    [
        ({}, 2, 2),
        ({}, 16, 4),
        ({"workers": 7}, 2, 7),
        ({"max_batch_size": 1}, 2, 2),
        ({"max_batch_size": 8}, 2, 2),  # of 16 workers
        ({"max_batch_size": 8}, 16, 4),
        ({"max_batch_size": 2, "workers": 2}, 16, 2),
        ({"max_batch_size": 4, "workers": 12}, 1, 1),
    ],
)
def test_throughput_is_measured_without_the_workers_that_only_fill_batches(
    given: dict[str, int], cores: int, callers: int
) -> None:
    assert load_settings({}, **given).network_callers_on(cores) == callers


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_settings({}).port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
