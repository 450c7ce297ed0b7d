"""What a setting costs: the command line and the arithmetic of the report. The servers are those of the benchmark."""

import numpy as np
import pytest

from scripts.setting_cost import BASELINE, CANDIDATE, TWIN, parse_arguments, report, setting

RNG = np.random.default_rng(5)
SHAPE = (6, 8)


def rates(factor: float) -> np.ndarray:
    return 20 * factor * np.exp(RNG.normal(0, 0.003, SHAPE))


def test_a_cost_is_told_from_the_noise_of_two_equal_servers() -> None:
    found = {BASELINE: rates(1), TWIN: rates(1), CANDIDATE: rates(0.9)}
    said = report(found, "YOLOFOLD_X=1")
    expected = np.exp(np.median(np.log(found[CANDIDATE] / found[BASELINE]), axis=1).mean())
    assert f"YOLOFOLD_X=1 over the defaults: {expected:.3f} [" in said and said.count(", loss") == 1


def test_equals_are_not_told_apart() -> None:
    shared = rates(1)
    assert "indistinguishable" in report({BASELINE: shared, TWIN: shared * 0.99, CANDIDATE: shared * 1.005}, "S")


@pytest.mark.parametrize("wrong", ["DRIFT_CPU=0", "YOLOFOLD_DRIFT_CPU"])
def test_what_is_no_setting_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--bundle", "x", wrong])
    assert "expected YOLOFOLD_NAME=VALUE" in capsys.readouterr().err


def test_a_value_may_hold_an_equals_sign() -> None:
    assert setting("YOLOFOLD_A=b=c") == ("YOLOFOLD_A", "b=c")
