"""Questions of one's own: what a file may hold, the line for each thing that is wrong, and the index."""

from __future__ import annotations

import csv
import errno
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import records
from data.answer_text import TARGETS
from data.label_space import CHEXPERT, REGIONS, Head
from data.own_data import NEEDED, OPTIONAL, RULES, TYPE_OF_HEAD, drawn_split, read_own_data
from data.records import write_record_index
from data.rows import read_table
from tests.own_files import VOCABULARY, draw, write
from training.audit import audit_index
from utils.errors import DataError


def targets(path: Path) -> dict[str, tuple[str, int]]:
    return {record.question_id: (record.type, record.target) for record in read_own_data(path).records}


def complaint(path: Path) -> str | None:
    """The one line of a file that is refused; any other error passes."""
    try:
        read_own_data(path)
    except DataError as error:
        return str(error)
    return None


# What a file may hold


def test_the_least_that_a_file_holds(tmp_path):
    path = write(tmp_path, 'image,question,answer\na.png,Is there an effusion?,Yes\n\nb.png,"What, then?",edema\n')
    read = read_own_data(path)
    assert targets(path) == {
        "row-2": ("D02_has_finding", 1),
        "row-4": ("B02_describe_abnormal", 1 << CHEXPERT.index("Edema")),
    }
    assert [record.patient for record in read.records] == ["a.png", "b.png"]
    assert read.name == "own data (films.csv)" and len(read.notes) == 2
    assert "no column `patient`" in read.notes[0] and "80% of the patients" in read.notes[1]


def test_every_column(tmp_path):
    text = (
        "\ufeffImage; Question ;Answer;Head;Type;Box;Patient;Split;ID\r\n"
        "a.png;Where?;left lung;region;where_is_device;1,2,30,40;p1;val;q1\r\n"
        "./b.png;  Is it\nthere? ;no;;D06_has_device;;p2;Train;q2\r\n"
        ";;;;;;;;\r\n"
    )
    first, second = read_own_data(write(tmp_path, text.replace("  Is it\nthere? ", '"  Is it\nthere? "'))).records
    lung = REGIONS.index("left lung")
    assert (first.type, first.target, first.split) == ("D07_where_is_device", 1 << lung, "validate")
    assert first.box == (lung, (1, 2, 30, 40)) and first.regions == 1 << lung and first.patient == "p1"
    assert (second.type, second.text, second.split) == ("D06_has_device", "Is it there?", "train")
    assert (second.question_id, second.image_id, second.place) == ("q2", "b.png", "films.csv, row 3")


def test_json_lines_hold_the_same(tmp_path):
    lines = [
        {"image": "a.png", "question": "Q\u2028?", "answer": ["edema", "nodule"], "head": None, "patient": 17},
        {"image": "b.png", "question": "Is it?", "answer": True, "patient": 18, "box": [1, 2, 3, 4]},
    ]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    read = read_own_data(write(tmp_path, text, "films.jsonl"))
    both = 1 << CHEXPERT.index("Edema") | 1 << CHEXPERT.index("Lung Lesion")
    assert [(r.target, r.patient) for r in read.records] == [(both, "17"), (1, "18")]
    assert read.records[1].place == "films.jsonl, row 3" and "boxes: 0 used, 1 not" in read.lines[1]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
NAMES = st.lists(st.sampled_from(OPTIONAL), unique=True)


@given(
    rows=st.lists(st.lists(CELL, min_size=9, max_size=9), min_size=1, max_size=5),
    more=NAMES,
    delimiter=st.sampled_from(",;\t"),
)
def test_both_forms_are_read_to_the_same_cells(tmp_path_factory, rows, more, delimiter):
    """Whatever the cells hold, quoted delimiters and line ends too."""
    folder = tmp_path_factory.mktemp("rows")
    columns = [*NEEDED, *more]
    rows = [["x.png", *row[1 : len(columns)]] for row in rows]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([columns, *rows])
    (folder / "a.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    lines = [json.dumps(dict(zip(columns, row)), ensure_ascii=False) for row in rows]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8", newline="")
    one, other = (read_table(folder / name, NEEDED, OPTIONAL) for name in ("a.csv", "a.jsonl"))
    assert [row.cells for row in one.rows] == [row.cells for row in other.rows]
    assert one.columns == other.columns == set(columns) and not one.warnings
    kept = [{name: cell.strip() for name, cell in zip(columns, row) if cell.strip()} for row in rows]
    assert [row.cells for row in one.rows] == kept


@given(
    content=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass")))
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_whatever_a_file_holds_ends_in_questions_or_one_line(tmp_path_factory, kind, content):
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    head = b"image,question,answer\n" if kind == "csv" else b""
    for data in (content, head + content):
        path.write_bytes(data)
        assert path.name in (complaint(path) or path.name)


@given(cell=st.text(max_size=20), column=st.sampled_from([*NEEDED, *OPTIONAL]))
def test_whatever_a_cell_holds_ends_in_questions_or_one_line(tmp_path_factory, cell, column):
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "a.png").exists():
        draw(folder / "a.png")
    row = {
        "image": "a.png",
        "question": "Where is it?",
        "answer": "left lung",
        "patient": "1",
        "split": "train",
        column: cell,
    }
    (folder / "cell.jsonl").write_text(json.dumps(row))
    assert "cell.jsonl" in (complaint(folder / "cell.jsonl") or "cell.jsonl")


def test_nothing_is_dropped_silently(tmp_path):
    text = (
        "image,question,answer,head,split\n"
        "a.png,Is it?,yes,,train\na.png,Is it?,,,train\na.png,Who?,Bob,,train\na.png,What?,scoliosis,category,train\n"
    )
    read = read_own_data(write(tmp_path, text))
    assert sorted(read.fates) == [
        ("train", "", "no_answer"),
        ("train", "", "no_rule"),
        ("train", "B02_describe_abnormal", "answer_outside_classes"),
    ]
    assert "4 questions about 1 images of 1 patients, 1 of them with a target" in read.lines[0]
    assert "  train: 1 left out (no rule)" in read.count_lines()
    index = write_record_index(tmp_path / "index", read, VOCABULARY, side=32)
    assert sum(index.counts("train").values()) == 4


# Splits


def test_patients_are_drawn_once_and_for_all():
    splits = [drawn_split(f"patient {number}") for number in range(4000)]
    assert splits == [drawn_split(f"patient {number}") for number in range(4000)]
    shares = {split: splits.count(split) / len(splits) for split in ("train", "validate", "test")}
    assert shares == pytest.approx({"train": 0.8, "validate": 0.1, "test": 0.1}, abs=0.02)


def test_images_of_a_patient_are_drawn_together(tmp_path):
    text = "image,question,answer,patient\n" + "".join(f"{i},Is it?,yes,7\n" for i in ("a.png", "b.png", "more/a.png"))
    assert {record.split for record in read_own_data(write(tmp_path, text)).records} == {drawn_split("7")}


# One line for everything that is wrong

HEADER = "image,question,answer"
GOOD = "a.png,Is it?,yes"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "has no rows: it must hold one for each question, with image, question, answer"),
        (HEADER, "has no rows"),
        (f"image,question,answers\n{GOOD}", r"films.csv: no column `answer` .*is `answers` meant\? rename it"),
        ("image,question\na.png,Is it?", r"no column `answer` \(there are: image, question\): add it"),
        (f"{HEADER},image\n{GOOD},x", "two columns are called `image`"),
        (f"{HEADER},\n{GOOD},x", "a column of the header has no name"),
        (f"{HEADER}\n{GOOD}\na.png,Is it, or not?,no", "row 3: has 4 cells, the header 3: put a cell"),
        (f'{HEADER}\n{GOOD}\na.png,"Is it?,no', "row 3: not valid CSV"),
        (HEADER.encode() + b"\na.png,Is it?,ja\xdf", "films.csv, line 2: not UTF-8; .*save it as CSV UTF-8"),
        (f"{HEADER}\n{GOOD}".encode("utf-16"), "line 1: not UTF-8"),
        (f"{HEADER}\n,Is it?,yes", "row 2: `image` is empty: fill it in$"),
        (f"{HEADER}\na.png, ,yes", "row 2: `question` is empty"),
        (f"{HEADER},patient\n{GOOD},\n", "row 2: `patient` is empty: fill it in in every row, or leave the column out"),
        (
            f"{HEADER}\nc.png,Is it?,yes\nd.png,Is it?,no",
            r"row 2: image c.png does not exist in .* \(2 of 2 images are missing\): correct",
        ),
        (f"{HEADER}\nmore\\a.png,Is it?,yes", "row 2: .*: write / between folders"),
        (f"{HEADER}\n/etc/a.png,Is it?,yes", "row 2: image '/etc/a.png' is not below the file's folder"),
        (f"{HEADER}\nmore/../a.png,Is it?,yes", "row 2: .*without `..`; a link in that folder"),
        (f"{HEADER}\nC:\\a.png,Is it?,yes", "row 2: .*is not below the file's folder"),
        (f"{HEADER},head\n{GOOD},binery", "row 2: `head` has 'binery': did you mean `binary`"),
        (f"{HEADER},head\n{GOOD},x", "row 2: `head` has 'x': it must be one of binary, category, region, severity"),
        (f"{HEADER},type\n{GOOD},D02_has_findings", "row 2: `type` has .*: did you mean `D02_has_finding`"),
        (f"{HEADER},type\n{GOOD},x", "row 2: `type` has 'x': see docs/OWN_DATA.md for all types"),
        (f"{HEADER},type\n{GOOD},A_indication", "row 2: no head answers questions of type A_indication"),
        (f"{HEADER},head,type\n{GOOD},region,D02_has_finding", "row 2: head region and type .* contradict each other"),
        (f"{HEADER},split\n{GOOD},tain", "row 2: `split` has 'tain': did you mean `train`"),
        (f'{HEADER},box\n{GOOD},"1,2,3"', "row 2: `box` must be four numbers x1, y1, x2, y2 in pixels"),
        (f"{HEADER},box\n{GOOD},1 2 inf 4", "row 2: `box` must be four numbers"),
        (f"{HEADER},box\n{GOOD},3 2 1 4", "row 2: .*with x1 < x2"),
        (f"{HEADER},id\n{GOOD},1\n{GOOD},1", "row 3: `id` is that of films.csv, row 2 too"),
        (f"{HEADER},patient\n{GOOD},1\n{GOOD},2", "row 3: the image has another patient than in row 2"),
        (
            f"{HEADER},patient,split\n{GOOD},1,train\nb.png,Is it?,no,1,test",
            "row 3: the split is another one than in row 2 for the same patient: what is learned would be tested",
        ),
        (
            f"{HEADER},split\n{GOOD},train\n{GOOD},test",
            "row 3: the split is another one than in row 2 for the same image",
        ),
        (f"{HEADER}\na.png,Who?,Bob", r"no row has an answer that a head can give \(no rule: 1\)"),
    ],
)
def test_what_is_wrong_with_a_csv_is_one_line(tmp_path, text, match):
    with pytest.raises(DataError, match=match) as caught:
        read_own_data(write(tmp_path, text))
    assert "\n" not in str(caught.value) and "films.csv" in str(caught.value)


ENTRY = {"image": "a.png", "question": "Is it?", "answer": "yes"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("\n\n", "has no rows"),
        ("[1]", "row 1: not an object"),
        (f"{json.dumps(ENTRY)}\n{{", "row 2: not valid JSON .*one object a line"),
        ("[" * 100_000, "row 1: not valid JSON"),
        ('{"image": "a.png", "Image": "b.png"}', "row 1: not valid JSON .a name occurs twice"),
        (json.dumps(ENTRY | {"answer": {"text": "yes"}}), "row 1, `answer`: wanted is a text"),
        (json.dumps(ENTRY | {"answer": [["yes"]]}), "row 1, `answer`: wanted is a text"),
        (json.dumps(ENTRY | {"question": "\ud800"}), "row 1, `question`: half of a character"),
        (json.dumps(ENTRY | {"split": "train"}) + "\n" + json.dumps(ENTRY), "row 2: `split` is empty"),
        (json.dumps(ENTRY | {"image": "a\0.png"}), "row 1: image .* does not exist"),
    ],
)
def test_what_is_wrong_with_json_lines_is_one_line(tmp_path, text, match):
    with pytest.raises(DataError, match=match) as caught:
        read_own_data(write(tmp_path, text, "films.jsonl"))
    assert "\n" not in str(caught.value) and "films.jsonl" in str(caught.value)


def test_another_kind_of_file_and_none_at_all(tmp_path):
    with pytest.raises(DataError, match=r"films\.xlsx: must be a \.csv or \.jsonl file"):
        read_own_data(tmp_path / "films.xlsx")
    with pytest.raises(DataError, match=r"no file .*films\.csv"):
        read_own_data(tmp_path / "films.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv cannot be read"):
        read_own_data(tmp_path / "folder.csv")


def test_an_unknown_column_is_said(tmp_path):
    read = read_own_data(write(tmp_path, f"{HEADER},spilt,comment\n{GOOD},train,x\n"))
    assert read.warnings == [
        "films.csv: the column `spilt` is not read: did you mean `split`?",
        "films.csv: the column `comment` is not read",
    ]


@pytest.mark.parametrize(
    ("box", "content", "match"),
    [
        ("", b"no image", "films.csv, row 2: image .*a.png: not a JPEG or PNG"),
        ("0 0 51 40", None, r"films.csv, row 2: the box 0, 0, 51, 40 is not inside the image \(50 x 40 pixels\)"),
    ],
)
def test_what_an_image_tells_names_the_row(tmp_path, box, content, match):
    path = write(tmp_path, f"{HEADER},box\na.png,Where?,left lung,{box}\n")
    if content:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=match):
        write_record_index(tmp_path / "index", read_own_data(path), VOCABULARY, side=32)
    assert not (tmp_path / "index").exists()


def test_all_broken_images_are_named_at_once(tmp_path):
    names = [f"{n}.png" for n in range(80)]
    path = write(tmp_path, "\n".join([HEADER, *(f"{name},Is it?,yes" for name in names)]) + "\n")
    for number, name in enumerate(names):
        draw(tmp_path / name)
        if number % 10 == 3 and number < 70:
            (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^7 of 80 images cannot be read: films.csv, row .*; and 2 more$") as caught:
        write_record_index(tmp_path / "index", read_own_data(path), VOCABULARY, side=32)
    assert str(caught.value).count("films.csv, row") == 5
    assert not (tmp_path / "index").exists()


def test_a_folder_that_holds_something_else_is_never_replaced(tmp_path):
    read = read_own_data(write(tmp_path, f"{HEADER}\n{GOOD}"))
    place = tmp_path / "home"
    place.mkdir()
    write_record_index(place, read, VOCABULARY, side=32)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("years of work")
    for place in (tmp_path / "own", tmp_path / "films.csv"):
        with pytest.raises(DataError, match=r"exists and is no index; name another folder with --set data\.index_dir"):
            write_record_index(place, read, VOCABULARY, side=32)
    assert (tmp_path / "own" / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "write_table", full)
    read = read_own_data(write(tmp_path, f"{HEADER}\n{GOOD}"))
    with pytest.raises(DataError, match="cannot write to .*index .No space left on device.; free space"):
        write_record_index(tmp_path / "index", read, VOCABULARY, side=32)
    assert not (tmp_path / "index").exists()


def test_a_file_without_a_header_is_not_quoted(tmp_path):
    text = "a.png,Has Mr Canary an effusion?,yes,p-canary\nb.png,Has he?,no,p-canary\n"
    with pytest.raises(
        DataError, match="the first row must name the columns, at least image, question, answer"
    ) as caught:
        read_own_data(write(tmp_path, text))
    assert "canary" not in str(caught.value).lower()


@pytest.mark.parametrize("column", ["head", "type", "split"])
def test_cells_that_slipped_are_not_quoted(tmp_path, column):
    with pytest.raises(DataError, match=f"row 2: `{column}` has a sentence: ") as caught:
        read_own_data(write(tmp_path, f"{HEADER},{column}\n{GOOD},Has Mr Canary an effusion?"))
    assert "Canary" not in str(caught.value)


# The index


def test_boxes_and_images_of_one_name(tmp_path):
    text = (
        f"{HEADER},box,patient,split\n"
        "a.png,Where?,left lung,10 0 20 20,11,train\na.png,Where else?,left lung,5 10 15 40,11,train\n"
        "a.png,Where?,heart,0 0 25 20,11,train\nmore/a.png,Where?,heart,,12,test\n"
    )
    index = write_record_index(tmp_path / "index", read_own_data(write(tmp_path, text)), VOCABULARY, side=32)
    assert index.images["box_count"].tolist() == [2, 0] and index.images["box_start"].tolist() == [0, 2]
    assert [REGIONS[region] for region in index.boxes["region"]] == ["left lung", "heart"]
    np.testing.assert_allclose(index.boxes["box"], [[0.1, 0, 0.4, 1], [0, 0, 0.5, 0.5]])
    assert index.image_ids(np.arange(2)) == ["a.png", "more/a.png"]
    assert index.studies["subject_id"].tolist() == [11, 12], "patients that are numbers keep them"
    assert audit_index(index, "test")["images"]["n"] == 0


def test_the_examples_of_the_document_are_read(root, tmp_path):
    blocks = dict(re.findall(r"^```(csv|jsonl)\n(.*?)^```", (root / "docs" / "OWN_DATA.md").read_text(), re.M | re.S))
    for name in ("0001.png", "0002.png"):
        draw(tmp_path / "films" / name)
    shutil.copy(tmp_path / "films" / "0002.png", tmp_path / "films" / "0003.dcm")
    for kind, rows in (("csv", 4), ("jsonl", 2)):
        (tmp_path / f"films.{kind}").write_text(blocks[kind])
        read = read_own_data(tmp_path / f"films.{kind}")
        assert len(read.records) == rows and not read.fates and not read.notes
        assert [record.box is not None for record in read.records][:2] == [False, True]


def test_the_rules_of_the_document_are_those_of_the_code(root):
    text = (root / "docs" / "OWN_DATA.md").read_text()
    assert [head for head, _ in RULES] == [Head(name) for name in re.findall(r"^\d\. \*\*(\w+)\*\*", text, re.M)]
    for head, examples in re.findall(r"^\| (\w+) \| (?:begins|names).*\| (`.*`)", text, re.M):
        assert TARGETS[Head(head)](examples.split("`")[1]) is not None
    assert set(re.findall(r"`([DB]0\w+)`", text)) == set(TYPE_OF_HEAD.values())
    columns = re.findall(r"^\| `(\w+)` \| (yes)? ?\|", text, re.M)
    assert {name for name, needed in columns if needed} == set(NEEDED)
    assert {name for name, needed in columns if not needed} >= set(OPTIONAL)
