"""Two checkpoints compared: figures against torch's own divergence, verdicts against changes made on purpose."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from service.bundle.store import Bundle
from service.observatory.diff import BatchNormDiff, Side, compare_batchnorm, symmetric_divergence
from service.prepare.checkpoint_stats import read_checkpoint_stats
from tests.conftest import ROOT, clean_environ, command, prepare_with_command
from tests.networks import calibrated_network, save_checkpoint

Change = Callable[[str, str, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(calibrated_network("yolo26n.yaml"), tmp_path_factory.mktemp("diff") / "before.pt")


@pytest.fixture(scope="module")
def side(checkpoint: Path) -> Side:
    stats = read_checkpoint_stats(checkpoint)
    return Side("before", stats.report.layers, stats.arrays)


def changed(side: Side, change: Change) -> Side:
    """The same checkpoint with each array replaced by ``change(layer, array name, values)``."""
    arrays = {}
    for path, values in side.arrays.items():
        layer, _, key = path.rpartition("/")
        arrays[path] = change(layer, key, values).astype(np.float32)
    return replace(side, label="after", arrays=arrays)


def verdicts(diff: BatchNormDiff) -> dict[str, str]:
    return {verdict.code: verdict.message for verdict in diff.verdicts}


def stage_of(side: Side) -> dict[str, str]:
    return {layer.name: layer.stage for layer in side.layers}


def test_the_divergence_is_torchs_in_both_directions() -> None:
    torch.manual_seed(0)
    a, b = (Normal(torch.randn(50).double(), torch.rand(50).double() * 3 + 0.01) for _ in range(2))
    expected = kl_divergence(a, b) + kl_divergence(b, a)
    found = symmetric_divergence(a.mean.numpy(), a.variance.numpy(), b.mean.numpy(), b.variance.numpy())
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9)


def test_figures_of_every_layer_equal_float64(side: Side) -> None:
    generator = np.random.default_rng(0)
    other = changed(side, lambda _, __, values: values * generator.uniform(0.5, 2.0, values.shape))
    diff = compare_batchnorm(side, other)
    assert [layer.name for layer in diff.layers] == [layer.name for layer in side.layers]
    for found, layer in zip(diff.layers, side.layers, strict=True):
        a, b = (
            {
                key: torch.from_numpy(s.arrays[f"{layer.name}/{key}"]).double()
                for key in ("gamma", "beta", "running_mean", "running_var")
            }
            for s in (side, other)
        )
        laws = [Normal(x["running_mean"], (x["running_var"] + layer.eps).sqrt()) for x in (a, b)]
        divergence = kl_divergence(*laws) + kl_divergence(*laws[::-1])
        assert found.divergence_mean == pytest.approx(float(divergence.mean()), rel=1e-9)
        assert found.divergence_max == pytest.approx(float(divergence.max()), rel=1e-9)
        assert found.furthest_channel == int(divergence.argmax())
        for key in ("gamma", "beta"):
            change = b[key] - a[key]
            assert getattr(found, f"{key}_change_rms") == pytest.approx(float(change.square().mean().sqrt()), rel=1e-9)
            assert getattr(found, f"{key}_change_max") == pytest.approx(float(change.abs().max()))
        assert found.movement == "moved"


def test_a_checkpoint_is_identical_to_itself(side: Side) -> None:
    diff = compare_batchnorm(side, side)
    assert list(verdicts(diff)) == ["identical"]
    assert {layer.movement for layer in diff.layers} == {"identical"}


def test_rounding_to_half_precision_is_no_movement(side: Side) -> None:
    diff = compare_batchnorm(side, changed(side, lambda _, __, values: values.astype(np.float16)))
    assert list(verdicts(diff)) == ["identical"]


def test_frozen_batchnorm_is_recognised_through_half_precision(side: Side) -> None:
    def train(_: str, key: str, values: np.ndarray) -> np.ndarray:
        return (values + 0.05 if key in ("gamma", "beta") else values).astype(np.float16)

    diff = compare_batchnorm(side, changed(side, train))
    assert list(verdicts(diff)) == ["frozen"]  # and not which of the frozen layers moved most
    assert "the same in all 96 layers" in verdicts(diff)["frozen"]
    assert {layer.movement for layer in diff.layers} == {"statistics-frozen"}


def test_a_frozen_backbone_is_counted(side: Side) -> None:
    stages = stage_of(side)
    diff = compare_batchnorm(side, changed(side, lambda n, _, v: v if stages[n] == "backbone" else v * 1.1))
    kept = [layer for layer in side.layers if layer.status != "dropped"]
    backbone, head = (sum(layer.stage == stage for layer in kept) for stage in ("backbone", "head"))
    assert f"{backbone} of {backbone} in the backbone" in verdicts(diff)["partly-frozen"]
    assert f"0 of {head} in the head" in verdicts(diff)["partly-frozen"]


def test_recalibrated_statistics_are_told_from_training(side: Side) -> None:
    diff = compare_batchnorm(side, changed(side, lambda _, k, v: v * 1.2 if k.startswith("running") else v))
    assert "gamma and beta are the same" in verdicts(diff)["affine-frozen"]
    assert {layer.movement for layer in diff.layers} == {"affine-frozen"}


def test_where_the_head_diverged_is_named(side: Side) -> None:
    stages, far, early = stage_of(side), "model.23.one2one_cv3.1.0.1.bn", "model.6.cv1.bn"

    def train(name: str, key: str, values: np.ndarray) -> np.ndarray:
        if key != "running_mean":
            return values * 1.01
        deviation = np.sqrt(side.arrays[f"{name}/running_var"])
        step = 5.0 if name == far else 3.0 if name == early else 0.5 if stages[name] == "head" else 0.01
        return values + step * deviation

    found = verdicts(compare_batchnorm(side, changed(side, train)))
    assert found["furthest"].startswith("The head moved most.") and far in found["furthest"]
    assert found["diverged"].startswith("2 layers diverged")
    assert found["diverged"].endswith(f"1 in the backbone, first {early}; 1 in the head, first {far}.")


def test_another_eps_is_not_the_same_batchnorm(side: Side) -> None:
    changed_layer = side.layers[3].model_copy(update={"eps": 1e-5})
    other = replace(
        side, layers=[changed_layer if layer.name == changed_layer.name else layer for layer in side.layers]
    )
    diff = compare_batchnorm(side, other)
    assert [layer.name for layer in diff.layers if layer.eps_changed] == [changed_layer.name]
    found = verdicts(diff)
    assert list(found) == ["eps", "identical"]
    assert f"1 layer, such as {changed_layer.name}" in found["eps"]
    assert found["identical"].startswith("gamma, beta and the running statistics are the same in all")


def test_the_head_that_is_not_deployed_decides_nothing(side: Side) -> None:
    dropped = {layer.name for layer in side.layers if layer.status == "dropped"}
    diff = compare_batchnorm(side, changed(side, lambda n, _, v: v * 3 if n in dropped else v))
    assert list(verdicts(diff)) == ["identical"]
    assert {layer.name for layer in diff.layers if layer.dropped} == dropped


def test_that_two_heads_leave_layers_out_is_said(checkpoint: Path, side: Side) -> None:
    stats = read_checkpoint_stats(checkpoint, "one2many")
    diff = compare_batchnorm(side, Side("the other head", stats.report.layers, stats.arrays))
    found = verdicts(diff)
    own, theirs = ({x.name for x in s.layers if x.status == "dropped"} for s in (side, stats.report))
    assert list(found) == ["heads", "identical"]
    assert f"leaves out {len(own ^ theirs)} layers" in found["heads"]
    assert {layer.name for layer in diff.layers if layer.dropped} == own | theirs


def test_layers_of_another_width_or_name_are_not_compared(side: Side) -> None:
    wider = side.layers[0].model_copy(update={"channels": 99})
    other = replace(side, label="after", layers=[wider, *side.layers[2:]])
    diff = compare_batchnorm(side, other)
    assert [(item.name, item.reason) for item in diff.incomparable] == [
        (side.layers[0].name, f"{side.layers[0].channels} channels against 99"),
        (side.layers[1].name, "after does not have it"),
    ]
    assert len(diff.layers) == len(side.layers) - 2
    assert "2 layers cannot be compared" in verdicts(diff)["incomparable"]


def run(*arguments: str, columns: int = 200) -> subprocess.CompletedProcess[str]:
    environ = clean_environ() | {"COLUMNS": str(columns)}
    return subprocess.run(
        command("bn-diff", *arguments), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120
    )


def test_a_bundle_is_compared_with_the_checkpoint_it_came_from(faulty_root: Path, faulty_bundle: Bundle) -> None:
    done = run(str(faulty_bundle.path), str(faulty_root / "faulty.pt"), "--json")
    assert done.returncode == 0, done.stderr
    assert [verdict["code"] for verdict in json.loads(done.stdout)["verdicts"]] == ["identical"]


def test_of_a_checkpoint_with_two_heads_the_one_that_the_bundle_deploys_is_compared(
    checkpoint: Path, tmp_path: Path
) -> None:
    """As the embedded model and what was trained on from it: the bundle deploys the head that is no checkpoint's
    default."""
    prepare_with_command(tmp_path / "bundles", weights=str(checkpoint), imgsz="128", head="one2many")
    (bundle,) = (tmp_path / "bundles").iterdir()
    network, far = calibrated_network("yolo26n.yaml"), "model.23.cv3.1.0.1.bn"
    layer = network.get_submodule(far)
    layer.running_mean += 5 * layer.running_var.sqrt()
    trained = save_checkpoint(network, tmp_path / "after.pt")
    for arguments in ((bundle, trained), (trained, bundle)):
        done = run(*map(str, arguments), "--json")
        assert done.returncode == 0, done.stderr
        found = {verdict["code"]: verdict["message"] for verdict in json.loads(done.stdout)["verdicts"]}
        assert "heads" not in found
        assert far in found["furthest"] and found["diverged"].endswith(f"1 in the head, first {far}.")


def test_the_table_names_the_furthest_layer_first(checkpoint: Path, faulty_root: Path) -> None:
    done = run(str(checkpoint), str(faulty_root / "faulty.pt"))
    assert done.returncode == 0, done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("model.")]
    assert lines[0] == "model.8.cv1.bn"  # the one whose variance was planted to be 100 000
    assert "moved most" in done.stdout


def test_a_narrow_terminal_or_a_pipe_still_shows_what_was_frozen(checkpoint: Path, faulty_root: Path) -> None:
    done = run(str(checkpoint), str(faulty_root / "faulty.pt"), columns=80)
    lines = done.stdout.splitlines()
    (titles,) = (line for line in lines if line.startswith("BatchNorm ") and "Stage" in line)
    for title in ("Divergence", "furthest channel", "d gamma rms", "d beta rms", "Movement"):
        assert title in titles
    movements = ("identical", "statistics-frozen", "affine-frozen", "moved")
    # Above the table stand verdicts, whose lines may begin with a layer's name, too.
    rows = [line for line in lines[lines.index(titles) :] if line.startswith("model.")]
    assert len(rows) > 20
    for line in rows:
        assert line[titles.index("Movement") :].startswith(movements)


def test_what_is_neither_a_bundle_nor_a_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert run(str(checkpoint), str(tmp_path / "none.pt")).returncode == 1
    assert run(str(tmp_path), str(checkpoint)).returncode == 3
