"""The parts of the training run that can be checked without training."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from scripts.embedded_model.bn_history import BatchNormHistory, sample_stages
from scripts.embedded_model.evaluation import Answered
from scripts.embedded_model.failures import COLUMNS, KINDS, draw_sheet, find_failures, worst
from scripts.embedded_model.training import cut_window

SIDE = 128


def painted_batch(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Two pictures, each with one filled rectangle and its label."""
    images = torch.zeros(2, 3, SIDE, SIDE)
    boxes = []
    for image in images:
        left, top = rng.integers(0, SIDE - 20, 2)
        right, bottom = rng.integers(left + 10, SIDE + 1), rng.integers(top + 10, SIDE + 1)
        image[:, top:bottom, left:right] = 1
        boxes.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    return {
        "img": images,
        "bboxes": torch.tensor(boxes, dtype=torch.float32) / SIDE,
        "cls": torch.tensor([[0.0], [3.0]]),
        "batch_idx": torch.tensor([0.0, 1.0]),
    }


def test_a_window_keeps_the_labels_of_what_it_shows() -> None:
    rng, kept, dropped = np.random.default_rng(0), 0, 0
    for _ in range(200):
        batch = painted_batch(rng)
        across, down = rng.random(2)
        cut = cut_window(batch, 96, across, down)
        assert cut["img"].shape == (2, 3, 96, 96)
        for index, image in enumerate(cut["img"]):
            found = cut["batch_idx"] == index
            shown, whole = image[0].sum(), batch["img"][index, 0].sum()
            assert int(found.sum()) == int(shown >= 0.3 * whole)
            if not found.any():
                dropped += 1
                continue
            kept += 1
            rows, columns = torch.nonzero(image[0], as_tuple=True)
            low = torch.stack((columns.min(), rows.min()))
            high = torch.stack((columns.max(), rows.max())) + 1
            expected = torch.cat(((low + high) / 2, (high - low).float())) / 96
            torch.testing.assert_close(cut["bboxes"][found][0], expected)
            assert cut["cls"][found][0] == batch["cls"][index]
    assert kept > 100 and dropped > 5


def test_a_window_leaves_the_batch_itself_alone() -> None:
    batch = painted_batch(np.random.default_rng(1))
    before = {key: value.clone() for key, value in batch.items()}
    cut_window(batch, 32, 1.0, 1.0)
    assert all(torch.equal(batch[key], before[key]) for key in before)


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.model(image)
        return result


def trained_once() -> Stages:
    torch.manual_seed(3)
    network = Stages()
    network(torch.rand(2, 3, 8, 8)).square().sum().backward()
    return network


def test_stages_are_summed_up_as_torch_holds_them() -> None:
    network = trained_once()
    first, third = sample_stages(network)
    assert (first["stage"], third["stage"]) == (0, 2)
    for row, block in ((first, network.model[0]), (third, network.model[2])):
        norm = block[1]
        gradients = torch.cat([p.grad.flatten() for p in block.parameters()])
        assert row["mean"] == pytest.approx(float(norm.running_mean.abs().mean()), rel=1e-3)
        assert row["variance"] == pytest.approx(float(norm.running_var.mean()), rel=1e-3)
        assert row["gamma"] == pytest.approx(float(norm.weight.detach().abs().mean()), rel=1e-3)
        assert row["gradient"] == pytest.approx(float(gradients.norm()), rel=1e-3)


def test_history_is_spaced_over_the_schedule_and_goes_on_from_the_checkpoint(tmp_path) -> None:
    target, network = tmp_path / "history.jsonl", trained_once()
    history = BatchNormHistory(target, 10)
    for step in range(58):
        history.count_step(step / 100, network)
    with target.open("a") as file:
        file.write('{"share": 0.6')  # a kill while a line is written
    resumed = BatchNormHistory(target, 10, step=45)  # of the last checkpoint: the interrupted run lost the rest
    for step in range(45, 100):
        resumed.count_step(step / 100, network)
    assert resumed.step == 100
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["step"] for line in lines] == [round(line["share"] * 100) + 1 for line in lines]
    assert 9 <= len(lines) <= 11
    assert max(np.diff([line["step"] for line in lines])) <= 12


def test_a_run_without_a_checkpoint_begins_its_history_anew(tmp_path) -> None:
    target, network = tmp_path / "history.jsonl", trained_once()
    BatchNormHistory(target, 10).count_step(0.0, network)
    BatchNormHistory(target, 10).count_step(0.0, network)
    assert [json.loads(line)["step"] for line in target.read_text().splitlines()] == [1]


def answered(truth: list[list[float]], found: list[list[float]]) -> Answered:
    return Answered(np.array(truth, np.float64).reshape(-1, 5), np.array(found, np.float64).reshape(-1, 6), 200)


@pytest.mark.parametrize(
    ("truth", "found", "kinds"),
    [
        ([], [], []),
        ([[1, 10, 10, 50, 50]], [[1, 12, 10, 50, 50, 0.9]], []),
        ([[1, 10, 10, 50, 50]], [], ["missed"]),
        ([[1, 10, 10, 50, 50]], [[2, 10, 10, 50, 50, 0.9]], ["confused"]),
        ([[1, 10, 10, 50, 50]], [[2, 10, 10, 50, 50, 0.9], [1, 10, 10, 50, 50, 0.3]], []),
        ([[1, 10, 10, 50, 50]], [[1, 100, 100, 150, 150, 0.9]], ["missed", "false alarm"]),
        ([[1, 10, 10, 50, 50]], [[1, 10, 10, 50, 29, 0.9]], ["missed", "false alarm"]),  # IoU 0.475
    ],
)
def test_failures_are_told_apart(tmp_path, truth, found, kinds) -> None:
    assert [f.kind for f in find_failures(tmp_path, answered(truth, found))] == kinds


def test_the_sheet_shows_the_worst_of_each_kind(tmp_path) -> None:
    pictures, failures = {}, []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((200, 100, 3), 128, np.uint8))
        pictures[path] = answered([[0, 5, 5, 20 + 10 * number, 60]], [[1, 5, 100, 90, 190, 0.3 + number / 10]])
        failures += list(find_failures(path, pictures[path]))
    assert [f.picture.name for f in worst(failures, "missed")] == ["5.png", "4.png", "3.png", "2.png"]
    sheet = draw_sheet(failures, pictures)
    assert sheet.shape == (len(KINDS) * (320 + 24), COLUMNS * 320, 3)
    green, red = (80, 200, 0), (0, 60, 255)
    assert (sheet == green).all(-1).any() and (sheet == red).all(-1).any()
