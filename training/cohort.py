"""What is known of the evaluated patients beside the index: a radiologist's labels, sex and age."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from configs.data_sets import external_setting
from configs.mimic_cxr_config import DataConfig
from data.index import Index
from data.label_space import CHEXPERT
from data.release import find_release
from training.predictions import QuestionSet
from utils.errors import DataError
from utils.utils import get_logger

log = get_logger(__name__)

SEX_COLUMNS, AGE_COLUMNS = ("sex", "gender"), ("age", "anchor_age")
AGE_LIMITS = (0, 40, 60, 80)
"""First years of the age groups"""


def radiologist_labels(data: DataConfig, index: Index, split: str, studies: np.ndarray | None) -> np.ndarray | None:
    """A radiologist's CheXpert labels of the test studies (rows of the index): (n, 14), nan where there are none.

    None for other splits and data sets, and for releases without that table (it came with MIMIC-CXR-JPG 2.1.0).
    """
    if split != "test" or studies is None or external_setting(data) or not data.mimic_cxr_path:
        return None
    table = find_release(data.mimic_cxr_path, data.mimic_qa_path).radiologist
    if table is None:
        return None
    wanted = table.reindex(index.studies["study_id"][studies])
    return wanted[list(CHEXPERT)].to_numpy(dtype=np.float64)


def patient_strata(table: str, questions: QuestionSet) -> dict[str, np.ndarray]:
    """`sex` and `age` of each question's patient as strata, from a CSV; empty where none is named.

    DataError: it cannot be read, or has neither.
    """
    if not table:
        return {}
    import pandas as pd

    try:
        frame = pd.read_csv(Path(table))
    except (OSError, ValueError) as error:
        raise DataError(f"evaluation.patients_table {table} cannot be read: {error}") from error
    columns = {name.lower().strip(): name for name in frame.columns}
    sex, age = (next((columns[c] for c in some if c in columns), None) for some in (SEX_COLUMNS, AGE_COLUMNS))
    if "subject_id" not in columns or not (sex or age):
        raise DataError(
            f"evaluation.patients_table {table}: wanted are subject_id and one of {', '.join(SEX_COLUMNS + AGE_COLUMNS)}; "
            f"found: {', '.join(map(str, frame.columns))}"
        )
    of_patient = (
        frame.drop_duplicates(columns["subject_id"]).set_index(columns["subject_id"]).reindex(questions.patient)
    )
    known = frame[columns["subject_id"]].isin(questions.patient.tolist()).sum()
    patients = len(np.unique(questions.patient))
    if not known:
        raise DataError(
            f"evaluation.patients_table {table}: none of the {patients:,} patients is in it; subject_id must be a number "
            "as in MIMIC, such as 10000032"
        )
    log.info("%s: %s of %s patients", table, f"{known:,}", f"{patients:,}")
    strata = {}
    if sex:
        strata["sex"] = of_patient[sex].fillna("").astype(str).str.strip().str.upper().str[:1].to_numpy(dtype=str)
    if age:
        strata["age"] = _age_groups(pd.to_numeric(of_patient[age], errors="coerce").to_numpy(dtype=float))
    return strata


def _age_groups(years: np.ndarray) -> np.ndarray:
    names = [f"{a} to {b - 1}" for a, b in pairwise(AGE_LIMITS)] + [f"{AGE_LIMITS[-1]} and more"]
    place = np.searchsorted(AGE_LIMITS[1:], np.nan_to_num(years), side="right")
    return np.where(np.isnan(years), "", np.array(names)[place])
