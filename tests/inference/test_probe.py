"""The probe against torch hooks on the unfolded checkpoint and against numpy in float64."""

import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from service.bundle.probe import FIGURES, PROBE_INPUT
from service.bundle.store import Bundle
from service.drift.layers import watch_layers
from service.errors import EngineError
from service.inference.probe import Probe
from service.preprocessing.letterbox import content_tensor, letterbox, plan_letterbox
from tests.conftest import ROOT, clean_environ
from tests.drift.test_figures import figures_of

#: Standard deviations of training, and natural logarithms: float32 convolutions, summed in another order.
TOLERANCE = 1e-5


def content(path: Path, size: int) -> np.ndarray:
    image = cv2.imread(str(path))
    plan = plan_letterbox(image.shape[1], image.shape[0], size)
    return content_tensor(letterbox(image, plan), plan)


def test_every_channel_repeats_the_unfolded_checkpoint(
    bundle: Bundle, samples: list[Path], embedded_checkpoint: Path
) -> None:
    import torch

    from service.prepare.checkpoint import load_model

    network = load_model(embedded_checkpoint).network.eval()
    names = [layer.batch_norm for layer in bundle.probe.layers]
    outputs: dict[str, torch.Tensor] = {}
    for name in names:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: outputs.update({name: output[0].double().flatten(1)})
        )
    probe, watched = Probe(bundle.probe_graph), watch_layers(bundle)
    for path in samples[:3]:
        tensor = content(path, bundle.manifest.model.input.height)
        reading = probe.measure(tensor)
        with torch.inference_mode():
            network(torch.from_numpy(tensor)[None])
        for name, layer in zip(names, watched.layers, strict=True):
            assert layer.law is not None
            part, maps = slice(layer.start, layer.stop), outputs[name].numpy()
            std = np.sqrt(layer.law.variance + 1e-6)
            assert (np.abs(reading.means[part] - maps.mean(1)) / std).max() < TOLERANCE, name
            spread = np.log(reading.variances[part] + 1e-6) - np.log(maps.var(1) + 1e-6)
            assert np.abs(spread).max() < TOLERANCE, name


def test_the_training_law_is_the_checkpoints(bundle: Bundle, embedded_checkpoint: Path) -> None:
    from service.prepare.checkpoint import load_model

    network = load_model(embedded_checkpoint).network
    for layer in watch_layers(bundle).layers:
        norm = network.get_submodule(layer.name)
        gamma, beta, var = (t.detach().double().numpy() for t in (norm.weight, norm.bias, norm.running_var))
        np.testing.assert_allclose(layer.law.mean, beta, rtol=1e-12)
        np.testing.assert_allclose(layer.law.variance, gamma**2 * var / (var + norm.eps), rtol=1e-12)


def test_the_figures_are_the_pictures(bundle: Bundle, samples: list[Path]) -> None:
    picture = cv2.imread(str(samples[1]))[:320, :256]
    tensor = content_tensor(
        np.ascontiguousarray(np.pad(picture, ((0, 0), (0, 64), (0, 0)))), plan_letterbox(320, 320, 320)
    )
    reading = Probe(bundle.probe_graph).measure(tensor)
    exact = figures_of(np.rint(tensor.transpose(1, 2, 0)[..., ::-1] * 255).astype(np.uint8))
    np.testing.assert_allclose(reading.figures, exact, rtol=1e-4, atol=1e-7)
    assert reading.figures.shape == (len(FIGURES),)


@pytest.mark.parametrize("shape", [(32, 32), (64, 320), (320, 96), (320, 320)])
def test_every_size_that_a_picture_can_have(bundle: Bundle, shape: tuple[int, int]) -> None:
    probe = Probe(bundle.probe_graph)
    grey = probe.measure(np.full((3, *shape), 0.5, np.float32))
    assert grey.means.shape == grey.variances.shape == (bundle.probe.channels,)
    assert all(np.isfinite(values).all() for values in vars(grey).values())
    assert grey.figures[0] == pytest.approx(0.5) and grey.figures[3:] == pytest.approx(0, abs=1e-9)


def test_larger_pictures_of_a_repeated_pattern_agree(bundle: Bundle) -> None:
    """Statistics are over positions. Of n by n tiles a share of about 1 / n lies at a border, so that the mean goes to
    its limit as 1 / n: with each doubling of n the step is half of the one before."""
    rng, probe = np.random.default_rng(0), Probe(bundle.probe_graph)
    tile = rng.uniform(0, 1, (3, 32, 32)).astype(np.float32)
    means = [probe.measure(np.tile(tile, (1, n, n))).means for n in (4, 8, 16)]
    spread = np.sqrt(np.concatenate([layer.law.variance for layer in watch_layers(bundle).layers]) + 1e-6)
    first, second = (np.abs(small - large) / spread for small, large in pairwise(means))
    assert second.max() == pytest.approx(first.max() / 2, rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_layer_is_measured_before_the_next_is_computed(bundle: Bundle) -> None:
    """Of the first layer's maps there are two at a time, of 16 bytes a pixel each, beside the picture's planes, of 12:
    46 bytes in all. With the maps of all layers kept, and their squares, it was 88."""
    program = f"""
from pathlib import Path
import numpy as np
from service.heap import map_large_blocks
from service.inference.probe import Probe
map_large_blocks()
def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
probe = Probe(Path({str(bundle.probe_graph)!r}))
probe.measure(np.zeros((3, 64, 64), np.float32))
before = kilobytes("VmRSS")
probe.measure(np.full((3, 1280, 1280), 0.5, np.float32))
print((kilobytes("VmHWM") - before) * 1024 / 1280**2)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean_environ(), check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < 60


def test_a_graph_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "probe.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"probe\.onnx cannot be loaded"):
        Probe(tmp_path / "probe.onnx")


def test_a_graph_that_is_no_probe(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="takes and gives"):
        Probe(bundle.deployed_graph)


def test_a_graph_that_fails_while_it_runs(bundle: Bundle, tmp_path: Path) -> None:
    path = Path(shutil.copy(bundle.probe_graph, tmp_path))
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64
    onnx.save(model, path)
    assert model.graph.input[0].name == PROBE_INPUT
    with pytest.raises(EngineError, match="The probe failed"):
        Probe(path).measure(np.zeros((3, 32, 32), np.float32))
