"""Which checkpoints are opened, which are refused and in whose name, and that none of them runs code."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ultralytics.nn import tasks
from ultralytics.nn.autobackend import default_class_names
from ultralytics.nn.modules import Focus

from service.errors import UnreadableCheckpoint, UnsupportedModel
from service.prepare.checkpoint import choose_head, drop_unused_head, load_model
from service.prepare.dataflow import observe_dataflow
from service.prepare.fold import fold_batchnorm
from tests.networks import calibrated_network, photographs, save_checkpoint


def test_the_embedded_checkpoint(embedded_checkpoint: Path) -> None:
    loaded = load_model(embedded_checkpoint)
    assert loaded.classes == ["linear", "qr_code", "data_matrix", "pdf417", "aztec"]
    assert loaded.architecture == "yolo26n.yaml" and not loaded.network.training
    assert all(p.dtype == torch.float32 for p in loaded.network.parameters())


def test_a_half_precision_checkpoint_is_read_as_float32(tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml")
    path = save_checkpoint(network.half(), tmp_path / "half.pt")
    assert all(p.dtype == torch.float32 for p in load_model(path).network.parameters())


@pytest.mark.parametrize(
    ("task", "kind", "yaml"),
    [
        ("segment", tasks.SegmentationModel, "yolo26n-seg.yaml"),
        ("pose", tasks.PoseModel, "yolo26n-pose.yaml"),
        ("obb", tasks.OBBModel, "yolo26n-obb.yaml"),
        ("classify", tasks.ClassificationModel, "yolo26n-cls.yaml"),
    ],
)
def test_another_task_is_refused_by_name(task: str, kind: type, yaml: str, tmp_path: Path) -> None:
    network = kind(yaml, verbose=False)
    network.task = task  # the trainer records it
    with pytest.raises(UnsupportedModel, match=task):
        load_model(save_checkpoint(network, tmp_path / "other.pt"))


def test_a_network_that_was_already_fused_is_refused(tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml").fuse(verbose=False)
    network.task = "detect"
    with pytest.raises((UnsupportedModel, UnreadableCheckpoint), match="fused"):
        load_model(save_checkpoint(network, tmp_path / "fused.pt"))


@pytest.mark.parametrize(
    ("tensor", "value"),
    [("running_var", torch.inf), ("running_mean", torch.nan), ("weight", -torch.inf), ("running_var", -1.0)],
)
def test_impossible_numbers_are_refused_by_name(tensor: str, value: float, tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml")
    getattr(network.model[2].cv1.bn, tensor).data[3] = value
    with pytest.raises(UnsupportedModel, match=rf"model\.2\.cv1\.bn\.{tensor}"):
        load_model(save_checkpoint(network, tmp_path / "x.pt"))


@pytest.mark.parametrize(
    ("eps", "variance"), [(0.0, 0.0), (-0.5, 0.25), (torch.nan, 1.0), (torch.inf, 1.0), (None, 1.0)]
)
def test_a_batchnorm_that_cannot_divide_is_refused_by_name(eps: float | None, variance: float, tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml")
    network.model[2].cv1.bn.eps = eps
    network.model[2].cv1.bn.running_var[3] = variance
    with pytest.raises(UnsupportedModel, match=rf"model\.2\.cv1\.bn divides .* eps is {eps}\."):
        load_model(save_checkpoint(network, tmp_path / "x.pt"))


def test_an_eps_of_nothing_beside_variances_is_taken(tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml")
    network.model[2].cv1.bn.eps = 0.0
    assert load_model(save_checkpoint(network, tmp_path / "x.pt")).network.get_submodule("model.2.cv1.bn").eps == 0


def test_a_batchnorm_without_running_statistics_is_refused_by_name(tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml")
    network.model[2].cv1.bn = torch.nn.BatchNorm2d(network.model[2].cv1.bn.num_features, track_running_stats=False)
    with pytest.raises(UnsupportedModel, match=r"model\.2\.cv1\.bn keeps no running statistics"):
        load_model(save_checkpoint(network, tmp_path / "x.pt"))


@pytest.mark.parametrize("names", [{"0": "a", "1": "b", "2": "c"}, ["a", "b", "c"], {2: "c", 0: "a", 1: "b"}])
def test_class_names_in_any_form(names: object, tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml", classes=3)
    network.names = names
    assert load_model(save_checkpoint(network, tmp_path / "x.pt")).classes == ["a", "b", "c"]


def test_half_a_character_in_a_class_name_is_replaced(tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml", classes=3)
    network.names = {0: "caf\ud83d", 1: "\U0001f600", 2: "c"}
    assert load_model(save_checkpoint(network, tmp_path / "x.pt")).classes == ["caf?", "\U0001f600", "c"]


@pytest.mark.parametrize("names", [{0: "a", 1: "b"}, {1: "a", 5: "b", 9: "c"}, ["a", "b", "c", "d"]])
def test_class_names_that_do_not_fit_the_classes(names: object, tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml", classes=3)
    network.names = names
    with pytest.raises(UnsupportedModel, match="detects 3 classes"):
        load_model(save_checkpoint(network, tmp_path / "x.pt"))


@pytest.mark.parametrize("names", [None, "deleted"])
def test_without_names_classes_are_called_as_ultralytics_calls_them(names: str | None, tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml", classes=3)
    network.names = names
    if names == "deleted":
        del network.names
    classes = load_model(save_checkpoint(network, tmp_path / "x.pt")).classes
    assert classes == list(default_class_names(nc=3).values()) == ["class0", "class1", "class2"]


@pytest.mark.parametrize("names", [{"a": "b"}, 3, {None: "a"}, "abc"])
def test_class_names_that_are_none(names: object, tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml", classes=3)
    network.names = names
    with pytest.raises(UnsupportedModel, match=r"names its classes by .*; it must be a list, or a mapping from 0 to 2"):
        load_model(save_checkpoint(network, tmp_path / "x.pt"))


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("key", ["channels", "ch", "nothing"])
def test_pictures_of_other_than_three_channels_are_refused(channels: int, key: str, tmp_path: Path) -> None:
    network = tasks.DetectionModel("yolo26n.yaml", ch=channels, nc=1, verbose=False)
    del network.yaml["channels"]  # as this release calls it
    network.yaml[key] = channels
    with pytest.raises(UnsupportedModel, match=f"takes {channels} image channels"):
        load_model(save_checkpoint(network, tmp_path / "x.pt"))


def test_a_network_that_begins_by_rearranging_its_pixels_takes_three_channels(tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml")
    stem = network.model[0]
    network.model[0] = Focus(3, stem.conv.out_channels, 3)  # its convolution is given 12
    network.model[0].i, network.model[0].f, network.model[0].type = stem.i, stem.f, "Focus"
    assert load_model(save_checkpoint(network, tmp_path / "x.pt")).classes


def test_a_synchronised_batchnorm_is_read_as_the_plain_one_it_is(tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml")
    picture = photographs(128)[:1]
    path = "model.2.cv1.bn"
    plain = network.get_submodule(path)
    network.set_submodule(path, torch.nn.SyncBatchNorm.convert_sync_batchnorm(plain))
    network.get_submodule(path).eps = 0.004
    with torch.inference_mode():
        expected = network(picture)[0]
    loaded = load_model(save_checkpoint(network, tmp_path / "x.pt")).network
    found = loaded.get_submodule(path)
    assert type(network.get_submodule(path)) is torch.nn.SyncBatchNorm
    assert type(found) is torch.nn.BatchNorm2d and found.eps == 0.004 and not found.training
    for name, values in plain.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], values, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(picture)[0], expected, rtol=0, atol=0)
    drop_unused_head(loaded, "one2one")
    result = fold_batchnorm(loaded, observe_dataflow(loaded).sites)
    assert path in {site.name for site in result.folded} and not result.unfoldable


@pytest.mark.parametrize(("stored", "imgsz"), [({"imgsz": 320}, 320), ({}, None), ({"imgsz": [320, 640]}, None)])
def test_the_size_it_was_trained_at(stored: dict, imgsz: int | None, tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml")
    torch.save({"model": network, "ema": None, "train_args": stored, "epoch": -1}, tmp_path / "x.pt")
    assert load_model(tmp_path / "x.pt").trained_imgsz == imgsz


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 5544453\n"
#: Words of the libraries that advise what would be dangerous or useless here.
ADVICE = ("weights_only", "yolo predict", "github.com/ultralytics", "emoji", "\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty."),
        (b"hello", "it does not begin as a file written by torch.save does."),
        (bytes(1000), "it does not begin as a file written by torch.save does."),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "it does not begin as a file written by torch.save does."),
        (b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>", "it is a web page (HTML)"),
        (LFS_POINTER, "it is a Git LFS pointer, not the file that it stands for; `git lfs pull` fetches that."),
        (b"\x80\x04garbage", "it is damaged"),
    ],
)
def test_what_is_no_checkpoint_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UnreadableCheckpoint) as refusal:
        load_model(tmp_path / "x.pt")
    assert f"x.pt is no Ultralytics checkpoint that can be loaded safely: {reason}" in str(refusal.value)
    assert not [words for words in ADVICE if words in str(refusal.value)]


@pytest.mark.parametrize("whole", [lambda tensors: tensors, lambda tensors: {"model": tensors, "train_args": {}}])
def test_tensors_without_their_network_are_named(whole: Callable, tmp_path: Path) -> None:
    torch.save(whole(torch.nn.Conv2d(3, 8, 1).state_dict()), tmp_path / "x.pt")
    with pytest.raises(UnreadableCheckpoint, match="no network, as a state_dict does; save the whole network"):
        load_model(tmp_path / "x.pt")


def test_a_truncated_checkpoint(embedded_checkpoint: Path, tmp_path: Path) -> None:
    data = embedded_checkpoint.read_bytes()
    (tmp_path / "x.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableCheckpoint, match="it is truncated"):
        load_model(tmp_path / "x.pt")


class Evil:
    """Unpickles by calling a function of the attacker's choice."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def test_code_inside_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"model": Evil(canary)}, tmp_path / "evil.pt")
    pickle.loads(pickle.dumps(Evil(canary)))  # the attack itself works ...
    assert canary.exists()
    canary.unlink()
    with pytest.raises(UnreadableCheckpoint, match=r"it refers to \S+, which no Ultralytics network needs") as refusal:
        load_model(tmp_path / "evil.pt")
    assert not canary.exists()  # ... but not through us
    assert not [words for words in ADVICE if words in str(refusal.value)]


def test_a_zip_that_is_not_torchs(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02N.")
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(UnreadableCheckpoint):
        load_model(tmp_path / "x.pt")


def test_the_head_follows_the_checkpoint() -> None:
    both, one = calibrated_network("yolo26n.yaml"), calibrated_network("yolo11n.yaml")
    assert (choose_head(both, "auto"), choose_head(both, "one2many")) == ("one2one", "one2many")
    assert choose_head(one, "auto") == "one2many" == choose_head(one, "auto", "one2one")
    assert choose_head(both, "auto", "one2many") == "one2many"
    assert choose_head(both, "one2one", "one2many") == "one2one"
    with pytest.raises(UnsupportedModel, match="no one2one head"):
        choose_head(one, "one2one")


@pytest.mark.parametrize(("head", "gone"), [("one2one", "cv2"), ("one2many", "one2one_cv2")])
def test_dropping_a_head_leaves_the_batchnorm_of_the_other(head: str, gone: str) -> None:
    network = calibrated_network("yolo26n.yaml")
    drop_unused_head(network, head)
    assert getattr(network.model[-1], gone) is None
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()) == 96
