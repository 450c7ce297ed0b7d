"""A bundle with a quantized graph is read whole or not at all, and says which way it may be served."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.bundle.int8 import GateVerdict, Int8Spec
from service.bundle.store import INT8, INT8_GRAPH, MANIFEST, Bundle, load_bundle
from service.errors import BundleCorrupt, BundleIncomplete, BundleSchemaError
from service.quantization.gate import BAR, share_at_least
from tests.bundles import rewrite


@pytest.mark.parametrize("file", [INT8, INT8_GRAPH])
def test_one_changed_byte(spoilable: Path, file: str) -> None:
    data = bytearray((spoilable / file).read_bytes())
    data[len(data) // 2] ^= 1
    (spoilable / file).write_bytes(data)
    with pytest.raises(BundleCorrupt, match=file):
        load_bundle(spoilable)


@pytest.mark.parametrize(("left", "gone"), [(INT8, INT8_GRAPH), (INT8_GRAPH, INT8)])
@pytest.mark.parametrize("listed", [True, False])
def test_neither_of_the_two_files_is_there_alone(spoilable: Path, left: str, gone: str, listed: bool) -> None:
    (spoilable / gone).unlink()
    if not listed:
        rewrite(spoilable, MANIFEST, lambda manifest: manifest["files"].pop(gone))
    with pytest.raises(BundleIncomplete, match=f"lacks {gone}"):
        load_bundle(spoilable)


def claim(**figures: object) -> Callable[[dict], None]:
    """Say of every way that it passed, with these figures."""
    return lambda spec: [way.update(passed=True, **figures) for way in spec["gate"]["ways"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (claim(boxes=100, repeated=94, new=0), "figures do not keep to the bar"),
        (claim(boxes=100, repeated=95, new=6), "figures do not keep to the bar"),
        (claim(boxes=99, repeated=99, new=0), "figures do not keep to the bar"),
        (lambda spec: [way.update(passed=False) for way in spec["gate"]["ways"]], "no way .* has passed"),
        (lambda spec: spec.update(schema_version=2), "schema_version"),
        (lambda spec: spec.update(more=1), "more"),
    ],
)
def test_a_verdict_is_not_taken_on_trust(spoilable: Path, change: Callable[[dict], None], words: str) -> None:
    rewrite(spoilable, INT8, change)
    with pytest.raises(BundleSchemaError, match=words):
        load_bundle(spoilable)


def test_figures_at_the_bar_pass(spoilable: Path) -> None:
    rewrite(spoilable, INT8, claim(boxes=100, repeated=95, new=5))
    assert load_bundle(spoilable).int8.best(bf16=False, dot_products=True) == "int8+fp32"


@pytest.mark.parametrize(
    ("passed", "with_bf16", "without"),
    [
        (("int8+bf16", "int8+fp32"), "int8+bf16", "int8+fp32"),
        (("int8+fp32",), "int8+fp32", "int8+fp32"),
        (("int8+bf16",), "int8+bf16", None),
    ],
)
def test_the_fastest_way_that_passed_and_is_possible(
    quantized: Bundle, passed: tuple[str, ...], with_bf16: str, without: str | None
) -> None:
    spec = with_ways(quantized.int8, passed)
    found = [spec.best(bf16=bf16, dot_products=True) for bf16 in (True, False)]
    assert found == [with_bf16, without]


def test_eight_bits_of_weight_need_sums_in_32_bits(quantized: Bundle) -> None:
    both = with_ways(quantized.int8, ("int8+bf16", "int8+fp32"))
    eight, seven = (both.model_copy(update={"weight_bits": bits}) for bits in (8, 7))
    assert eight.best(bf16=True, dot_products=False) is None
    assert seven.best(bf16=True, dot_products=False) == "int8+bf16"


def with_ways(spec: Int8Spec, passed: tuple[str, ...]) -> Int8Spec:
    """As if both ways had been judged and these had passed."""
    ways = [
        GateVerdict(
            precision=precision,
            runtime="OpenVINO 1.0",
            boxes=200,
            repeated=200,
            new=0,
            repeated_at_least=0.98,
            passed=precision in passed,
            reason=None if precision in passed else "it does not",
        )
        for precision in ("int8+bf16", "int8+fp32")
    ]
    return spec.model_copy(update={"gate": spec.gate.model_copy(update={"ways": ways})})


def test_a_hundred_boxes_are_the_fewest_that_show_nine_of_ten() -> None:
    """Whoever just passes repeats 90 % of all boxes, at a confidence of 95 %; with one box less that is not said."""
    assert BAR.least_boxes == 100
    assert share_at_least(94, 99) < 0.9 <= share_at_least(95, 100)


def test_the_lower_bound_is_the_share_of_which_so_much_is_seen_once_in_twenty() -> None:
    """Wilson's bound approximates the exact one, which the binomial distribution gives."""
    from math import comb

    for seen, boxes in ((95, 100), (190, 200), (226, 228)):
        share = share_at_least(seen, boxes)
        chance = sum(comb(boxes, k) * share**k * (1 - share) ** (boxes - k) for k in range(seen, boxes + 1))
        assert 0.03 < chance < 0.09
