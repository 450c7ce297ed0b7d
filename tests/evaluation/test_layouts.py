"""Data sets as they lie on disk: what is read, and what each fault is said to be."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from service.errors import ClassMismatch, DataSetError
from service.evaluation.data_set import DataSet
from service.evaluation.layouts import open_data_set

CLASSES = ["linear", "qr_code", "aztec"]
MAX_PIXELS = 1_000_000
WIDTH, HEIGHT = 200, 100


def write_picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def read(place: Path, split: str | None = None, negatives: bool = False) -> DataSet:
    return open_data_set(place, split, CLASSES, MAX_PIXELS, negatives)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Two test pictures, one without objects, and one val picture; classes numbered in another order."""
    for name in ("test/a.jpg", "test/b.png", "val/c.jpg"):
        write_picture(tmp_path / "images" / name)
    write_text(tmp_path / "labels/test/a.txt", "0 0.5 0.5 0.2 0.4\n1 0.25 0.25 0.1 0.1\n")
    write_text(tmp_path / "labels/val/c.txt", "1 0.5 0.5 1 1\n")
    names = "names:\n  0: aztec\n  1: linear\n"
    write_text(tmp_path / "data.yaml", f"path: .\ntrain: images/none\nval: images/val\ntest: images/test\n{names}")
    return tmp_path


def test_yolo_boxes_become_pixels_and_the_models_ids(yolo: Path) -> None:
    data = read(yolo)
    assert (data.layout, data.split, data.class_ids) == ("YOLO", "test", [0, 2])
    assert [p.path.name for p in data.pictures] == ["a.jpg", "b.png"]
    first, second = data.pictures
    assert (first.width, first.height) == (WIDTH, HEIGHT)
    assert first.objects.xyxy == pytest.approx(np.array([[80, 30, 120, 70], [40, 20, 60, 30]]))
    assert first.objects.class_id.tolist() == [2, 0]
    assert first.objects.area.tolist() == pytest.approx([1600, 200])
    assert len(second.objects) == 0
    unlabelled, unknown = data.notes
    assert unlabelled == "1 pictures have no label file and count as pictures without objects."
    assert "does not know the model's qr_code" in unknown


@pytest.mark.parametrize("place", ["data.yaml", "."])
def test_a_split_can_be_chosen(yolo: Path, place: str) -> None:
    data = read(yolo / place, "val")
    assert (data.split, [p.path.name for p in data.pictures]) == ("val", ["c.jpg"])


def test_a_folder_that_is_named_like_a_picture_is_none(yolo: Path) -> None:
    write_picture(yolo / "images/test/shop.jpg/d.jpg")
    assert [picture.path.name for picture in read(yolo).pictures] == ["a.jpg", "b.png", "d.jpg"]


def test_without_test_it_is_val(yolo: Path) -> None:
    write_text(yolo / "data.yaml", "val: images/val\nnames: [aztec, linear]\n")
    assert read(yolo).split == "val"


def test_a_split_can_be_a_list_of_pictures(yolo: Path) -> None:
    write_text(yolo / "one.txt", "./images/test/a.jpg\n\n")
    write_text(yolo / "data.yaml", "test: one.txt\nnames: [aztec, linear]\n")
    assert [p.path.name for p in read(yolo).pictures] == ["a.jpg"]
    write_text(yolo / "one.txt", "./images/test/a.jpg\nimages/test/gone.jpg\n")
    with pytest.raises(DataSetError, match=r"one\.txt:2: .*gone\.jpg is missing"):
        read(yolo)


def test_a_folder_one_too_high_is_found_as_roboflow_means_it(yolo: Path) -> None:
    write_text(yolo / "data.yaml", "test: ../images/test\nnames: [aztec, linear]\n")
    assert len(read(yolo).pictures) == 2


def test_an_outline_becomes_its_box(yolo: Path) -> None:
    write_text(yolo / "labels/test/a.txt", "0 0.1 0.2 0.5 0.1 0.3 0.6\n")
    assert read(yolo).pictures[0].objects.xyxy == pytest.approx(np.array([[20, 10, 100, 60]]))


def test_boxes_end_at_the_border_and_repeated_lines_are_one(yolo: Path) -> None:
    write_text(yolo / "labels/test/a.txt", "0 1.0 0.5 0.2 1.005\n" * 2)
    assert read(yolo).pictures[0].objects.xyxy == pytest.approx(np.array([[180, 0, 200, 100]]))


def test_a_plain_folder_takes_the_models_ids_and_says_so(yolo: Path) -> None:
    (yolo / "data.yaml").unlink()
    data = read(yolo)
    assert (data.split, len(data.pictures), data.class_ids) == ("test", 2, [0, 1, 2])
    assert data.pictures[0].objects.class_id.tolist() == [0, 1]
    assert "does not name its classes" in data.notes[0]
    assert read(yolo, "val").split == "val"
    shutil.rmtree(yolo / "images/test")
    shutil.rmtree(yolo / "labels/test")
    shutil.move(yolo / "images/val/c.jpg", yolo / "images/c.jpg")
    shutil.move(yolo / "labels/val/c.txt", yolo / "labels/c.txt")
    (yolo / "images/val").rmdir()
    assert read(yolo).split is None
    with pytest.raises(DataSetError, match="no split 'val'"):
        read(yolo, "val")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", r"a\.txt:2: 3 numbers follow"),
        ("0 0.5 0.5 0.2 0.1 0.3", r"a\.txt:2: 5 numbers follow"),
        ("0 0.5 half 0.2 0.1", r"a\.txt:2: .*not all numbers"),
        ("0 50 50 20 10", r"a\.txt:2: coordinates are shares"),
        ("0 nan 0.5 0.2 0.1", r"a\.txt:2: coordinates are shares"),
        ("0 0.5 0.5 0.2 0", r"a\.txt:2: the box has no extent"),
        ("2 0.5 0.5 0.2 0.1", r"a\.txt:2: there is no class 2; ids are 0 to 1"),
        ("-1 0.5 0.5 0.2 0.1", r"a\.txt:2: there is no class -1"),
        ("0.5 0.5 0.5 0.2 0.1", r"a\.txt:2: there is no class 0.5"),
    ],
)
def test_a_broken_label_is_named_with_its_line(yolo: Path, line: str, message: str) -> None:
    write_text(yolo / "labels/test/a.txt", f"0 0.5 0.5 0.2 0.4\n{line}\n")
    with pytest.raises(DataSetError, match=message):
        read(yolo)


def test_a_label_without_a_picture_is_named(yolo: Path) -> None:
    write_text(yolo / "labels/test/lost.txt", "")
    with pytest.raises(DataSetError, match=r"lost\.txt: the picture that it labels is missing"):
        read(yolo)
    (yolo / "labels/test/lost.txt").rename(yolo / "labels/test/classes.txt")
    assert len(read(yolo).pictures) == 2


def test_labels_that_are_nowhere_are_not_taken_for_empty_pictures(yolo: Path) -> None:
    shutil.move(yolo / "labels", yolo / "annotations_of_somebody")
    with pytest.raises(DataSetError, match=r"not one object is labelled in 2 pictures.*labels/test/a\.txt"):
        read(yolo)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("test: images/test\nnames: [aztec, lineal]\n", r"'lineal' \(did it mean 'linear'\?\)"),
        ("test: images/test\nnames: [aztec, bus]\n", "'bus', which is not one of the model's: linear, qr_code, aztec"),
        ("test: images/test\nnames: [aztec, aztec]\n", "gives several classes the name 'aztec'"),
    ],
)
def test_classes_are_matched_by_name_or_refused(yolo: Path, description: str, message: str) -> None:
    write_text(yolo / "data.yaml", description)
    with pytest.raises(ClassMismatch, match=message):
        read(yolo)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("test: images/test\nnames: [aztec\n", r"data\.yaml:3: not YAML"),
        ("- test\n", "holds no mapping"),
        ("names: [aztec]\n", "has neither test nor val"),
        ("test: images/tset\nnames: [aztec]\n", "images/tset is neither a folder nor"),
        ("path: /nowhere\ntest: images/test\nnames: [aztec]\n", "its path '/nowhere' is not a folder"),
        ("test: images/test\nnames: aztec\n", "names must be a list"),
        ("test: images/test\nnc: 4\n", "nc is 4, but the model has 3 classes"),
    ],
)
def test_a_broken_description_is_named(yolo: Path, description: str, message: str) -> None:
    write_text(yolo / "data.yaml", description)
    with pytest.raises(DataSetError, match=message):
        read(yolo)


def test_a_split_that_is_not_there_names_those_that_are(yolo: Path) -> None:
    with pytest.raises(DataSetError, match="no split 'holdout'; it has test, val, train"):
        read(yolo, "holdout")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.jpg", None, r"cut\.jpg: the picture cannot be read"),
        ("scan.tif", b"II*\0scan", r"scan\.tif: the picture cannot be read"),
    ],
)
def test_an_unreadable_picture_is_named(yolo: Path, name: str, content: bytes | None, message: str) -> None:
    whole = (yolo / "images/test/a.jpg").read_bytes()
    (yolo / "images/test" / name).write_bytes(whole[:300] if content is None else content)
    with pytest.raises(DataSetError, match=message):
        read(yolo)


def test_a_picture_above_the_services_limit_is_named(yolo: Path) -> None:
    with pytest.raises(DataSetError, match=r"a\.jpg: .*200 x 100 = 20000 pixels; the limit is 19999"):
        open_data_set(yolo, None, CLASSES, WIDTH * HEIGHT - 1)


def coco_document() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 9, "file_name": "b.jpg", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 90, "name": "linear"}, {"id": 3, "name": "qr_code"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 3, "bbox": [10, 20, 30, 40], "area": 700, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 90, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        ],
    }


def write_coco(folder: Path, document: dict[str, Any], name: str = "annotations/instances_val2017.json") -> Path:
    for picture in ("a.jpg", "b.jpg"):
        write_picture(folder / "val2017" / picture)
    write_text(folder / name, json.dumps(document))
    return folder


def test_coco_annotations_become_the_models_ids(tmp_path: Path) -> None:
    data = read(write_coco(tmp_path, coco_document()))
    assert (data.layout, data.split, data.class_ids) == ("COCO", "val", [0, 1])
    first, second = data.pictures
    assert first.path == tmp_path / "val2017/a.jpg" and len(first.objects) == 0
    assert second.objects.xyxy.tolist() == [[10, 20, 40, 60], [0, 0, 50, 50]]
    assert second.objects.class_id.tolist() == [1, 0]
    assert second.objects.area.tolist() == [700, 2500]
    assert second.objects.crowd.tolist() == [False, True]


@pytest.mark.parametrize("split", [None, "val"])
def test_of_cocos_files_the_instances_of_the_split_are_taken(tmp_path: Path, split: str | None) -> None:
    write_coco(tmp_path, coco_document())
    for other in ("captions_val2017", "instances_train2017"):
        write_text(tmp_path / "annotations" / f"{other}.json", "{}")
    assert read(tmp_path, split).source.name == "instances_val2017.json"


def test_a_coco_file_can_be_given_itself(tmp_path: Path) -> None:
    file = write_coco(tmp_path, coco_document()) / "annotations/instances_val2017.json"
    assert (read(file).split, len(read(file).pictures)) == (None, 2)
    with pytest.raises(DataSetError, match="leave --split out"):
        read(file, "val")


def test_annotations_beside_their_pictures_are_found(tmp_path: Path) -> None:
    for part in ("test", "valid"):
        write_text(tmp_path / part / "_annotations.coco.json", json.dumps(coco_document()))
        for picture in ("a.jpg", "b.jpg"):
            write_picture(tmp_path / part / picture)
    assert read(tmp_path).pictures[0].path.parent.name == "test"
    assert read(tmp_path, "val").pictures[0].path.parent.name == "valid"


def test_several_coco_files_of_a_split_are_not_chosen_between(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_document())
    write_text(tmp_path / "annotations/instances_val2014.json", "{}")
    with pytest.raises(DataSetError, match=r"val2014\.json, .*val2017\.json may all be the split 'val'"):
        read(tmp_path)
    with pytest.raises(DataSetError, match="is the split 'test'"):
        read(tmp_path, "test")


def change(path: str, value: Any) -> dict[str, Any]:
    """The document with one entry changed, ``annotations/0/bbox`` for instance; None removes it."""
    document = coco_document()
    *way, last = path.split("/")
    place: Any = document
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("annotations/0/bbox", [10, 20, 30], r"annotations\[0\] \(id 1\): bbox must be"),
        ("annotations/0/bbox", [10, 20, 0, 40], r"annotations\[0\] \(id 1\): bbox must be"),
        ("annotations/1/bbox", None, r"annotations\[1\] \(id 2\): bbox must be"),
        ("annotations/0/area", "big", r"annotations\[0\] \(id 1\): area must be a number"),
        ("annotations/0/image_id", 8, r"annotations\[0\] \(id 1\): there is no picture with the id 8"),
        ("annotations/0/category_id", 1, r"annotations\[0\] \(id 1\): there is no category with the id 1"),
        ("annotations", None, "must hold the lists"),
        ("categories", [], "neither images nor categories may be empty"),
        ("categories", None, "must hold the lists"),
        ("images/1/id", 7, r"images\[1\] must be an object with an id"),
        ("images/1/file_name", None, "the picture with the id 9 has no file_name"),
        ("images/0/file_name", "gone.jpg", r"gone\.jpg is in none of .*val2017"),
        ("images/1/file_name", "gone.jpg", r"val2017/gone\.jpg: the picture is missing"),
        ("images/1/width", 300, r"said to have 300 x 100 pixels, but .*b\.jpg has 200 x 100"),
    ],
)
def test_a_fault_in_coco_annotations_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    write_coco(tmp_path, change(path, value))
    with pytest.raises(DataSetError, match=message):
        read(tmp_path)


def test_broken_json_is_named_with_its_line(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_document())
    write_text(tmp_path / "annotations/instances_val2017.json", '{"images": [],\n "categories": [}\n')
    with pytest.raises(DataSetError, match=r"instances_val2017\.json:2: not JSON"):
        read(tmp_path)


def test_empty_label_files_say_that_there_are_no_objects(yolo: Path) -> None:
    for name in ("a", "b"):
        write_text(yolo / f"labels/test/{name}.txt", "\n")
    data = read(yolo)
    assert [len(picture.objects) for picture in data.pictures] == [0, 0]
    (yolo / "labels/test/b.txt").unlink()
    with pytest.raises(DataSetError, match=r"1 of them have no label file: .*labels/test/b\.txt.*--negatives"):
        read(yolo)
    assert len(read(yolo, negatives=True).pictures) == 2
    assert "1 pictures have no label file" in read(yolo, negatives=True).notes[0]


def test_an_empty_list_of_annotations_says_that_there_are_no_objects(tmp_path: Path) -> None:
    data = read(write_coco(tmp_path, change("annotations", [])))
    assert [len(picture.objects) for picture in data.pictures] == [0, 0]
    assert data.class_ids == [0, 1]


def test_a_plain_folder_is_taken_if_somebody_vouches_for_it(tmp_path: Path) -> None:
    for name in ("b.jpg", "deep/er/a.PNG"):
        write_picture(tmp_path / name)
    write_text(tmp_path / "about.txt", "Holidays.")
    with pytest.raises(DataSetError, match=r"is no data set.*say so with --negatives"):
        read(tmp_path)
    data = read(tmp_path, negatives=True)
    assert (data.layout, data.split, data.class_ids) == ("pictures", None, [0, 1, 2])
    assert [picture.path.name for picture in data.pictures] == ["b.jpg", "a.PNG"]
    assert (data.pictures[0].width, data.pictures[0].height) == (WIDTH, HEIGHT)
    assert all(len(picture.objects) == 0 for picture in data.pictures)
    with pytest.raises(DataSetError, match="has no split 'test'"):
        read(tmp_path, "test", negatives=True)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(DataSetError, match=r"b\.jpg: the picture cannot be read"):
        read(tmp_path, negatives=True)


def test_a_folder_without_pictures_has_no_negatives(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="holds no pictures"):
        read(tmp_path, negatives=True)


def test_negatives_with_objects_are_refused(yolo: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataSetError, match=r"in 1 pictures some are labelled, first in .*a\.jpg"):
        read(yolo, negatives=True)
    with pytest.raises(DataSetError, match=r"in 1 pictures some are labelled, first in .*b\.jpg"):
        read(write_coco(tmp_path_factory.mktemp("coco"), coco_document()), negatives=True)


def test_only_crowds_are_nothing_to_find(tmp_path: Path) -> None:
    write_coco(tmp_path, change("annotations/0/iscrowd", 1))
    with pytest.raises(DataSetError, match="not one object is labelled"):
        read(tmp_path)


def test_labels_made_before_an_exif_turn_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_document())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "val2017/b.jpg", exif=exif)
    with pytest.raises(DataSetError, match=r"b\.jpg has 100 x 200 as people see it.*before its EXIF turn"):
        read(tmp_path)


@pytest.mark.parametrize("place", ["nowhere", "notes.txt", "."])
def test_what_is_no_data_set_is_refused(tmp_path: Path, place: str) -> None:
    write_text(tmp_path / "notes.txt", "")
    with pytest.raises(DataSetError):
        read(tmp_path / place)
