"""Which checkpoints are opened, which are refused and in whose name, and that none of them runs code."""

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from ultralytics.nn import tasks

from service.errors import UnreadableCheckpoint, UnsupportedModel
from service.prepare.checkpoint import choose_head, drop_unused_head, load_model
from tests.networks import calibrated_network, save_checkpoint


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


@pytest.mark.parametrize("names", [{0: "a", 1: "b"}, {1: "a", 5: "b", 9: "c"}, ["a", "b", "c", "d"]])
def test_class_names_that_do_not_fit_the_classes(names: object, tmp_path: Path) -> None:
    network = calibrated_network("yolo26n.yaml", classes=3)
    network.names = names
    with pytest.raises(UnsupportedModel, match="detects 3 classes"):
        load_model(save_checkpoint(network, tmp_path / "x.pt"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_what_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UnreadableCheckpoint):
        load_model(tmp_path / "x.pt")


def test_a_truncated_checkpoint(embedded_checkpoint: Path, tmp_path: Path) -> None:
    data = embedded_checkpoint.read_bytes()
    (tmp_path / "x.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableCheckpoint):
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
    with pytest.raises(UnreadableCheckpoint):
        load_model(tmp_path / "evil.pt")
    assert not canary.exists()  # ... but not through us


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
    assert choose_head(one, "auto") == "one2many"
    with pytest.raises(UnsupportedModel, match="no one2one head"):
        choose_head(one, "one2one")


@pytest.mark.parametrize(("head", "gone"), [("one2one", "cv2"), ("one2many", "one2one_cv2")])
def test_dropping_a_head_leaves_the_batchnorm_of_the_other(head: str, gone: str) -> None:
    network = calibrated_network("yolo26n.yaml")
    drop_unused_head(network, head)
    assert getattr(network.model[-1], gone) is None
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules()) == 96
