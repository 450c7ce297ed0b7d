"""What a training run keeps in its folder: where it began, how long it took, and what it refuses to go on with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scripts import train_embedded
from scripts.embedded_model.checkpoint import export_checkpoint
from scripts.embedded_model.dataset import write_dataset
from scripts.embedded_model.defaults import DefaultConfidence, DefaultHead
from scripts.embedded_model.evaluation import Alarms, ClassScore, Recall, Report
from scripts.embedded_model.metrics import Metrics, Provenance, read_metrics, write_metrics
from scripts.embedded_model.run_files import read_lines, sha256_of
from scripts.embedded_model.run_state import (
    HISTORY,
    LAST,
    METRICS,
    RELEASE,
    RESULTS,
    WEIGHTS,
    Progress,
    RunRefused,
    adopt_run,
    epoch_map50,
    note_progress,
    open_run,
    read_progress,
)
from service.prepare.checkpoint import load_model
from tests.conftest import ROOT

EARLIER = Provenance("python earlier", 1, 2, {"train": 3}, 4, 5.0, ("What was odd about it.",))


def write_weights(folder: Path, content: bytes, sha256: str | None = None) -> Path:
    """A stand-in for a checkpoint (only its hash matters) with figures beside it."""
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(content)
    score = ClassScore(0.5, 0.5, 0.5, 0.5)
    report = Report("one2one", 640, 0.5, 0.4, {"linear": score}, {"all": Recall(1, 2)}, Alarms(1, 0, 0))
    write_metrics(
        folder / METRICS,
        Metrics(
            sha256,
            "A machine",
            EARLIER,
            DefaultHead("one2one", "usual"),
            DefaultConfidence(0.25, "usual"),
            0.25,
            (report,),
        ),
    )
    return folder / WEIGHTS


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "start", b"first")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def reach_checkpoint(run: Path) -> None:
    (run / LAST).parent.mkdir(parents=True, exist_ok=True)
    (run / LAST).write_bytes(b"a checkpoint")


def test_where_a_run_began_is_kept_and_read_when_the_file_has_changed(run: Path, start: Path) -> None:
    sha256 = sha256_of(start)
    assert open_run(run, start).earlier == EARLIER
    reach_checkpoint(run)
    # The run ends: what it made takes the place of what it started from, with figures of its own.
    (run / RELEASE).mkdir()
    (run / RELEASE / WEIGHTS).write_bytes(b"second")
    shutil.copyfile(run / RELEASE / WEIGHTS, start)
    (start.parent / METRICS).write_text("{}")
    again = open_run(run, start)
    assert (again.sha256, again.earlier) == (sha256, EARLIER)


def test_another_start_is_refused_once_there_is_a_checkpoint(run: Path, start: Path, tmp_path: Path) -> None:
    open_run(run, start)
    other = write_weights(tmp_path / "other", b"other")
    assert open_run(run, other).sha256 == sha256_of(other)  # nothing was trained yet
    reach_checkpoint(run)
    for wrong in (start, None):
        with pytest.raises(RunRefused, match=f"began with weights of SHA-256 {sha256_of(other)}.*another --work"):
            open_run(run, wrong)
    assert open_run(run, other).sha256 == sha256_of(other)


def test_a_run_stays_one_of_the_whole_network_or_of_one_head(run: Path, start: Path) -> None:
    for alone in (True, False):
        shutil.rmtree(run, ignore_errors=True)
        assert open_run(run, start, alone).one2one_alone is alone
        reach_checkpoint(run)
        assert open_run(run, start, alone).one2one_alone is alone
        with pytest.raises(RunRefused, match=f"began {'with' if alone else 'without'} --one2one-alone"):
            open_run(run, start, not alone)


def test_random_weights_are_a_start_too(run: Path, start: Path) -> None:
    assert open_run(run, None).sha256 is None
    reach_checkpoint(run)
    assert open_run(run, None).earlier is None
    with pytest.raises(RunRefused, match="began with random weights"):
        open_run(run, start)


def test_a_start_must_have_figures_of_its_own(run: Path, start: Path, tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="is about other weights"):
        open_run(run, write_weights(tmp_path / "mixed", b"mixed", sha256_of(start)))
    (start.parent / METRICS).unlink()
    with pytest.raises(RunRefused, match="is missing"):
        open_run(run, start)
    with pytest.raises(RunRefused, match="there is no file"):
        open_run(run, tmp_path / "nowhere.pt")


def test_a_new_run_forgets_what_a_killed_one_left(run: Path) -> None:
    run.mkdir()
    for name in (HISTORY, RESULTS, "progress.jsonl"):
        (run / name).write_text("left")
    open_run(run, None)
    assert [path.name for path in run.iterdir()] == ["start.json"]


def test_progress_is_that_of_the_checkpoint(run: Path) -> None:
    run.mkdir()
    noted = [Progress(1, 700.0, 100), Progress(2, 1500.5, 200), Progress(3, 2100.0, 300)]
    for one in noted:
        note_progress(run, one)
    assert read_progress(run, None) == noted[2]
    # Killed between the note and the checkpoint: the third epoch has to be trained again.
    assert read_progress(run, 2) == noted[1]
    assert read_progress(run, None) == noted[1]
    with pytest.raises(RunRefused, match="says nothing about the checkpoint"):
        read_progress(run, 3)


def write_results(run: Path, rows: list[tuple[int, float, float]]) -> None:
    lines = [f"{epoch},{seconds},{value},9" for epoch, seconds, value in rows]
    (run / RESULTS).write_text("epoch,time,metrics/mAP50(B),other\n" + "\n".join(lines) + "\n")


def test_the_validation_of_every_epoch_is_read_once(run: Path) -> None:
    run.mkdir()
    write_results(run, [(1, 10, 0.1), (2, 20, 0.2), (2, 11, 0.25), (3, 21, 0.3)])
    assert epoch_map50(run) == (0.1, 0.25, 0.3)


def test_a_run_of_older_code_is_refused_until_it_is_adopted(run: Path, start: Path) -> None:
    """Such a run has Ultralytics' files and the BatchNorm history, and neither start.json nor progress.jsonl."""
    reach_checkpoint(run)
    with pytest.raises(RunRefused, match=r"older version.*--adopt"):
        open_run(run, start)
    with pytest.raises(RunRefused, match=RESULTS):
        adopt_run(run, start, 1.0)
    write_results(run, [(1, 700, 0.1), (2, 1400, 0.2), (3, 600, 0.3), (4, 1300, 0.35)])
    shares = [0.05, 0.2, 0.4, 0.54, 0.9]
    (run / HISTORY).write_text("".join(f'{{"share": {s}, "step": {round(s * 1000)}}}\n' for s in shares))
    adopt_run(run, start, 1.0)
    assert open_run(run, start).earlier == EARLIER
    assert read_progress(run, 3) == Progress(3, 2000.0, 540)
    assert read_progress(run, 2) == Progress(2, 1400.0, 200)


def test_adopting_changes_nothing_that_a_run_says_of_itself(run: Path, start: Path, tmp_path: Path) -> None:
    adopt_run(run, start, 1.0)
    assert not run.exists()  # there is no run yet
    open_run(run, start)
    note_progress(run, Progress(1, 700.0, 100))
    reach_checkpoint(run)
    adopt_run(run, write_weights(tmp_path / "other", b"other"), 1.0)
    assert open_run(run, start).sha256 == sha256_of(start)
    assert read_progress(run, 1) == Progress(1, 700.0, 100)


def test_the_recorded_command_is_what_decides_the_weights() -> None:
    given = [
        "--pictures",
        "16000",
        "--first-picture",
        "32000",
        "--hours",
        "1.86",
        "--note",
        "A note.",
        "--threads",
        "1",
        "--work",
        "/tmp/x",
    ]
    shipped = str(ROOT / "service/weights/yolo26n-codes.pt")
    for flags in ([], ["--average-start"], ["--average-start", "--one2one-alone"]):
        options = train_embedded._parser().parse_args([*given, "--adopt", *reversed(flags), "--start-from", shipped])
        assert train_embedded.recorded_command(options) == " ".join(
            [
                "python -m scripts.train_embedded --hours 1.86 --pictures 16000 --first-picture 32000",
                "--start-from service/weights/yolo26n-codes.pt",
                *flags,
            ]
        )


def test_a_note_can_be_added_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(train_embedded.SHIPPED / METRICS, tmp_path / METRICS)
    before = read_metrics(tmp_path / METRICS)
    monkeypatch.setattr(train_embedded, "SHIPPED", tmp_path)
    assert train_embedded.main(["--card", "--note", "A later remark."]) == 0
    after = read_metrics(tmp_path / METRICS)
    assert after.provenance.notes == (*before.provenance.notes, "A later remark.")
    assert replace(after, provenance=before.provenance) == before
    assert "  A later remark.\n" in (tmp_path / train_embedded.CARD).read_text()


HOURS = 30 / 3600
PROGRAM = """
import sys
from pathlib import Path
from scripts.embedded_model.training import train
if __name__ == "__main__":
    start = [Path(name) for name in sys.argv[4:]]
    train(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), 1, *start, one2one_alone=bool(start))
"""


def training(work: Path, hours: float, *start: Path) -> list[str]:
    """Training in a process of its own, as the tests' may load checkpoints of known classes only.

    With a `start` the one-to-one head alone is trained.
    """
    return [sys.executable, "-c", PROGRAM, str(work / "data" / "data.yaml"), str(work), str(hours), *map(str, start)]


def training_environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "ULTRALYTICS_SAFE_LOAD"}


def kill_within_second_epoch(work: Path) -> None:
    run = work / "yolo26n-codes"
    with (
        (work / "log").open("w") as log,
        subprocess.Popen(training(work, HOURS), cwd=ROOT, env=training_environ(), stdout=log, stderr=log) as process,
    ):
        while process.poll() is None and not (run / LAST).exists():
            time.sleep(0.05)
        while process.poll() is None and read_lines(run / HISTORY)[-1]["step"] < 2:
            time.sleep(0.01)
        process.kill()


def ends(work: Path, hours: float, *start: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        training(work, hours, *start), cwd=ROOT, env=training_environ(), capture_output=True, text=True, timeout=900
    )


def test_a_killed_run_goes_on_where_its_checkpoint_was_and_ends(tmp_path: Path) -> None:
    """A real run of one step an epoch: killed, resumed, ended, and not trained any further."""
    write_dataset(tmp_path / "data", 5, {"train": 16, "val": 2, "test": 0}, 1)
    run = tmp_path / "yolo26n-codes"
    kill_within_second_epoch(tmp_path)
    before = read_lines(run / "progress.jsonl")
    assert before, (tmp_path / "log").read_text()
    assert before[0]["epoch"] == before[0]["step"] == 1 and before[0]["seconds"] > 0
    done = ends(tmp_path, HOURS)
    assert done.returncode == 0, done.stderr
    lines = read_lines(run / "progress.jsonl")
    assert lines[0] == before[0]
    assert [line["epoch"] for line in lines] == [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[-1] >= HOURS * 3600
    steps = [line["step"] for line in read_lines(run / HISTORY)]
    assert steps == sorted(set(steps)) and steps[-1] <= lines[-1]["step"]
    assert len(epoch_map50(run)) == len(lines)

    kept = (run / LAST).read_bytes()
    again = ends(tmp_path, HOURS)
    assert again.returncode == 0 and "not trained any further" in again.stdout
    assert (run / LAST).read_bytes() == kept
    assert "cannot be made longer" in ends(tmp_path, 10 * HOURS).stderr

    for name in ("start.json", "progress.jsonl"):  # as an older version would have left it
        (run / name).unlink()
    adopt_run(run, None, HOURS / 2)
    assert "not trained any further" in ends(tmp_path, HOURS / 2).stdout
    assert read_progress(run, None).epoch == len(lines)
    assert (run / LAST).read_bytes() == kept


def test_the_one2one_head_can_be_trained_alone(tmp_path: Path) -> None:
    """Everything else, BatchNorm's statistics included, stays what it was to the last bit."""
    start = ROOT / "service/weights" / WEIGHTS
    write_dataset(tmp_path / "data", 5, {"train": 16, "val": 2, "test": 0}, 1)
    done = ends(tmp_path, 5 / 3600, start)
    assert done.returncode == 0, done.stderr
    before = load_model(start).network.state_dict()
    export_checkpoint(tmp_path / "yolo26n-codes" / LAST, tmp_path / "after.pt")
    after = load_model(tmp_path / "after.pt").network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    heads = {name for name in before if ".one2one_" in name}
    assert moved <= heads
    for branch in ("one2one_cv2", "one2one_cv3"):
        for kind in ("conv.weight", "bn.running_mean"):
            assert any(branch in name and name.endswith(kind) for name in moved), (branch, kind)


def test_a_network_of_random_weights_has_no_head_to_train_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert train_embedded.main(["--one2one-alone", "--work", str(tmp_path), "--pictures", "1"]) == 1
    assert "--one2one-alone: a network of random weights" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
