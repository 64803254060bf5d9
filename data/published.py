"""Counts that the pages of the data sets state, to forecast costs and to compare a copy with.

Sources: https://physionet.org/content/mimic-cxr-jpg/2.1.0/ (images; views from the published ViewPosition) and
https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/ (studies and questions). That page prints the questions of validation and
test the wrong way round in one line; its lines by type and by grade add up to the numbers here.
"""

from __future__ import annotations

JPG_PAGE = "https://physionet.org/content/mimic-cxr-jpg/2.1.0/"
QBA_PAGE = "https://physionet.org/content/mimic-ext-cxr-qba/1.0.0/"

IMAGES = {"train": 368_960, "validate": 2_991, "test": 5_159}
"""of MIMIC-CXR-JPG by split; likewise below"""
STUDIES = {"train": 222_758, "validate": 1_808, "test": 3_269}
PATIENTS = {"train": 64_586, "validate": 500, "test": 293}
FRONTAL_IMAGES, BLANK_VIEWS = 243_334, 15_769
RADIOLOGIST_STUDIES = 687

QUESTION_STUDIES = {"train": 222_180, "validate": 1_805, "test": 3_254}
"""Studies with questions by split"""
QUESTIONS = {
    "all": {"train": 41_239_042, "validate": 333_022, "test": 600_763},
    "A_frontal": {"train": 7_378_344, "validate": 58_486, "test": 95_451},
    "B_frontal": {"train": 30_542_190, "validate": 246_233, "test": 442_483},
}
"""Of the whole set, and of its exports: questions of that grade or better about frontal images"""
GRADES = {
    "A++": 1_368_001,
    "A+": 1_115_789,
    "A": 5_347_580,
    "B": 24_812_681,
    "C": 700_747,
    "D": 547_763,
    "": 8_280_266,
}
"""Questions of exactly that grade, all splits and views; the last: unrated"""
VIEWS = {"frontal_only": 243_334, "lateral_only": 132_841, "all": 376_175}
"""Images of studies with questions that `data.view_filter` lets through"""
TYPES = {
    "A_indication": 218_294,
    "B01_describe_all": 208_433,
    "B02_describe_abnormal": 208_433,
    "B03_is_abnormal": 208_433,
    "B04_is_normal": 208_433,
    "B08_describe_subcat": 2_360_329,
    "B09_describe_abnormal_subcat": 2_360_329,
    "B10_is_abnormal_subcat": 2_360_329,
    "B11_is_normal_subcat": 1_667_464,
    "B12_describe_device": 954_659,
    "B13_has_devices": 954_659,
    "B14_describe_acquisition": 7_017,
    "B15_describe_imaging_artifacts": 208_433,
    "B16_has_imaging_artifacts": 208_433,
    "C01_describe_region": 2_827_147,
    "C02_describe_abnormal_region": 2_827_177,
    "C03_is_abnormal_region": 2_832_066,
    "C04_is_normal_region": 2_831_838,
    "C07_describe_region_device": 4_650_283,
    "C08_has_region_device": 4_652_197,
    "D01_describe_finding": 2_550_098,
    "D02_has_finding": 2_551_216,
    "D03_where_is_finding": 2_021_152,
    "D04_how_severe_is_finding": 1_325_613,
    "D05_describe_device": 326_628,
    "D06_has_device": 321_678,
    "D07_where_is_device": 322_056,
}
"""Questions of each type, of the whole set"""
