"""Writes tiny releases of four studies in the layouts of the real ones, for the tests of `data.release`."""

import json
import zipfile
from pathlib import Path

import pandas as pd

from data.label_space import CHEXPERT

# subject, study, split, [(view, width, height)]
STUDIES = [
    (10000001, 50000003, "train", [("PA", 2544, 3056), ("LATERAL", 2544, 3056)]),
    (10000001, 50000001, "train", [("AP", 2000, 3000)]),
    (10000002, 50000002, "validate", [("", 2022, 1736)]),
    (11000003, 50000004, "test", [("AP AXIAL", 100, 200), ("PA", 100, 200)]),
]
INFO = {"regions": ["lungs", "left lung"], "finding_entities": ["atelectasis", "pleural effusion", "opacity"]}
QA = {
    (p, s): {"patient_id": f"p{p}", "study_id": f"s{s}", "questions": [{"question": "Café?"}]} for p, s, *_ in STUDIES
}
GRAPHS = {key: {"study_id": f"s{key[1]}", "observations": {}} for key in list(QA)[:-1]}  # one study has none
META = {key: {"study_id": f"s{key[1]}", "split": "val"} for key in GRAPHS}


def image_ids(study: int, count: int) -> list[str]:
    return [f"{study}-{i:08d}-0000aaaa-0000bbbb-0000cccc" for i in range(count)]


def write_jpg(
    root: Path, gz: bool = True, files: bool = True, radiologist: bool = False, version: str = "2.0.0"
) -> Path:
    """A MIMIC-CXR-JPG release of four studies; image files are a few bytes."""
    rows, labels = [], []
    for n, (patient, study, split, images) in enumerate(STUDIES):
        for (view, width, height), dicom in zip(images, image_ids(study, len(images)), strict=True):
            rows.append(
                dict(dicom_id=dicom, subject_id=patient, study_id=study, ViewPosition=view, Rows=height, Columns=width)
                | dict(StudyTime=80556.875, split=split)
            )
            folder = root / ("files" if files else ".") / f"p{str(patient)[:2]}/p{patient}/s{study}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{dicom}.jpg").write_bytes(b"jpg")
        labels.append({"subject_id": patient, "study_id": study} | dict.fromkeys(sorted(CHEXPERT)))
        labels[-1] |= {"Edema": [1.0, 0.0, -1.0, None][n], "No Finding": 1.0 if n == 3 else None}
    table = pd.DataFrame(rows).sample(frac=1, random_state=0)  # order in the file must not matter
    write_table(root / f"mimic-cxr-{version}-metadata.csv", table.drop(columns="split"), gz)
    write_table(root / f"mimic-cxr-{version}-split.csv", table[["dicom_id", "study_id", "subject_id", "split"]], gz)
    write_table(root / f"mimic-cxr-{version}-chexpert.csv", pd.DataFrame(labels), gz)
    if radiologist:
        gold = pd.DataFrame(labels).drop(columns="subject_id").rename(columns={"Lung Opacity": "Airspace Opacity"})
        write_table(
            root / "mimic-cxr-2.1.0-test-set-labeled.csv", gold.assign(**{"Airspace Opacity": 1.0}).tail(1), False
        )
    return root


def write_table(path: Path, frame: pd.DataFrame, gz: bool) -> None:
    frame.to_csv(path.with_name(path.name + ".gz") if gz else path, index=False)


def write_members(target: Path, kinds: dict[str, dict], top: str = "", bom: bool = False) -> None:
    """Members into a zip (a target that ends so) or a folder, below `top`."""
    files = {
        f"{top}p{str(p)[:2]}/p{p}/s{s}.{kind}.json": ("\ufeff" * bom + json.dumps(content)).encode()
        for kind, of_kind in kinds.items()
        for (p, s), content in of_kind.items()
    }
    if target.suffix == ".zip":
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return
    for name, content in files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)


SCENES = {"scene_graph": GRAPHS, "metadata": META}


def write_qba(root: Path, qa=("qa.zip", "qa/"), scenes=("scene_data.zip", "scene_data/"), info=INFO, **options) -> Path:
    """A MIMIC-Ext-CXR-QBA release; `qa` and `scenes` are (target, top folder inside it)."""
    write_members(root / qa[0], {"qa": QA}, qa[1], **options)
    write_members(root / scenes[0], SCENES, scenes[1], **options)
    (root / "metadata").mkdir(exist_ok=True)
    (root / "metadata" / "dataset_info.json").write_text(json.dumps(info))
    return root


def facts(release) -> dict:
    """Everything that a release says, without where it lies."""
    images = release.images.assign(path=[release.image_path(row).is_file() for row in release.images.itertuples()])
    return {
        "images": images.to_dict("records"),
        "chexpert": release.chexpert.fillna(-9).to_dict(),
        "studies": release.studies(),
        "qa": [release.read_qa(*key) for key in release.studies()],
        "graphs": [release.read_scene_graph(*key) for key in release.studies()],
        "metadata": [release.read_metadata(*key) for key in release.studies()],
        "graph studies": release.scene_graph_studies(),
        "words": (release.entities, release.region_names),
        "problems": dict(release.problems),
    }
