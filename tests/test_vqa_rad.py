"""VQA-RAD as an index: which question goes where, what is left out, and what its two parts share."""

from __future__ import annotations

import pytest

from configs.mimic_cxr_config import DataConfig
from data.label_space import CHEXPERT, REGIONS, Head
from data.records import write_record_index
from data.vocabulary import Vocabulary
from data.vqa_rad import read_vqa_rad
from tests.vqa_rad_files import vqa_rad_folder
from training.audit import audit_index
from training.evaluation_run import question_set
from utils.errors import DataError

VOCABULARY = Vocabulary(("pleural effusion",), ("lungs",))


@pytest.fixture
def folder(tmp_path):
    return vqa_rad_folder(tmp_path / "rad")


def test_questions_become_targets_by_the_rules(folder):
    read = read_vqa_rad(folder)
    found = {record.question_id: (record.type, record.target) for record in read.records}
    lobe, lung = REGIONS.index("right upper lobe"), REGIONS.index("left lung")
    heart, edema = CHEXPERT.index("Cardiomegaly"), CHEXPERT.index("Edema")
    assert found == {
        "vqa-rad-1": ("D02_has_finding", 1),
        "vqa-rad-2": ("D03_where_is_finding", 1 << lobe | 1 << lung),
        "vqa-rad-3": ("B02_describe_abnormal", 1 << heart | 1 << edema),
        "vqa-rad-8": ("D02_has_finding", 0),
        "vqa-rad-9": ("D04_how_severe_is_finding", 1),
    }
    fates = sorted(fate for *_, fate in read.fates)
    assert fates == ["answer_outside_classes", "no_rule", "no_rule", "other_organ"]


def test_what_the_parts_share_is_said_and_found_by_the_audit(folder, tmp_path):
    read = read_vqa_rad(folder)
    index = write_record_index(tmp_path / "index", read, VOCABULARY, side=32)
    assert read.lines == ["VQA-RAD: 3 images with training questions, 2 with test questions"]
    assert len(read.notes) == 1 and "1 of the 2 test images have training questions too" in read.notes[0]
    assert "  test: 1 D02_has_finding" in read.count_lines()
    assert any("left out (other organ)" in line for line in read.count_lines())
    audit = audit_index(index, "test")
    assert audit["images"]["n"] == audit["patients"]["n"] == audit["same_pictures"]["n"] == 1
    assert len(audit["findings"]) == 4 and "1 of the 2 test images" in audit["findings"][0]
    asked = question_set(index, "test", DataConfig())
    assert len(asked) == 2 and asked.targets(Head.BINARY).tolist() == [0]
    assert index.vocabulary == VOCABULARY and not index.is_synthetic and index.meta["credentialed"] is False
    counted = sum(n for split in index.meta["counts"].values() for kind in split.values() for n in kind.values())
    assert counted == 9, "every question is a record or counted with its reason"


def test_images_of_the_test_part_never_choose_the_best_model(folder):
    read = read_vqa_rad(folder)
    assert not {r.image for r in read.records if r.split == "validate"} & {
        r.image for r in read.records if r.split == "test"
    }


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("trainset.json", None, "must hold"),
        ("testset.json", "{", "is not VQA-RAD"),
        ("testset.json", "[{}]", "is missing"),
    ],
)
def test_what_is_not_the_set_is_one_line(folder, name, content, match):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(DataError, match=match) as caught:
        read_vqa_rad(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named(folder, tmp_path):
    (folder / "images" / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"a\.jpg"):
        write_record_index(tmp_path / "index", read_vqa_rad(folder), VOCABULARY, side=32)


def test_the_real_set(shared_dir, tmp_path):
    """Counts of the files themselves, and that few chest questions are left out."""
    read = read_vqa_rad(shared_dir / "real" / "vqa-rad")
    index = write_record_index(tmp_path / "index", read, VOCABULARY, side=64)
    assert "314 images with training questions, 203 with test" in read.lines[0] and "203 of the 203" in read.notes[0]
    assert len(read.records) + len(read.fates) == 3064 + 451
    chest = [fate for *_, fate in read.fates if fate != "other_organ"]
    assert len(read.records) + len(chest) == 1088 + 174
    binary = [r for r in read.records if r.type == "D02_has_finding"]
    assert len([r for r in binary if r.split == "test"]) == 109
    assert len(binary) == 442 + 247 + 109
    assert audit_index(index, "test")["images"]["n"] > 0
