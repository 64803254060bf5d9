"""Look-alike data of a wanted composition: B films with exactly M questions each, of which a wanted share is distinct.

How much a step costs depends on how often question texts repeat, so a comparison has to hold that still. The studies,
films, scene graphs and answers are those of a generated release; the texts are handed out anew: some are asked about
every film, the others about one film only.
"""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.session import Session
from configs.mimic_cxr_config import Config
from data.answers import Question, parse_question
from data.release import Release, open_release
from utils.errors import DataError
from utils.utils import atomic_directory

QBA = "qba"
PACKED, FOLDERS = "packed", "folders"
STUDIES_PER_FILM, LEAST_STUDIES = 3, 24
"""Generated studies for each film that is wanted: not every one is a training study with a single frontal film"""


@dataclass(frozen=True)
class Composition:
    """A composed release."""

    config: Config
    """names the composed release and the folder of its index; every question of it is used, each once an epoch"""
    release: Release
    folder: Path
    films: int
    questions: int
    """of each film"""

    @property
    def member_folder(self) -> Path:
        """Unpacked `qa` and `scene_data`, as a program that reads single files wants them."""
        return self.folder / QBA / FOLDERS


def compose(session: Session, films: int, questions: int, share: float, together: int) -> Composition:
    """Write the release, unless it is there.

    Args:
        films: B.
        questions: M.
        share: distinct texts of all questions, within any `together` films.
        together: films of one micro-batch: within one, texts are encoded once.
    """
    base_config = session.with_release(max(LEAST_STUDIES, STUDIES_PER_FILM * films))
    cxr, qba = base_config.data.mimic_cxr_path, base_config.data.mimic_qa_path
    name = f"composed-{films}x{questions}-{share:g}-of-{together}-{session.args.seed}"
    folder = session.workdir / name
    if not folder.exists():
        session.say(f"composing {films} films with {questions} questions each in {folder}")
        base = open_release(cxr, qba)
        unique = unique_questions(films, questions, share, together)
        with atomic_directory(folder) as target:
            _write(target / QBA, base, _studies(base, films), questions, unique, session.args.seed)
    config = deepcopy(session.config)
    data = config.data
    data.mimic_cxr_path, data.mimic_qa_path = cxr, str(folder / QBA)
    data.index_dir = str(session.workdir / "index" / f"{name}-{data.image_store_size or data.image_size}")
    # every question of these, each once: nothing is filtered, drawn or changed
    data.quality_grade, data.question_types, data.max_samples = "all", [], 0
    data.draw, data.augmentation, data.view_filter = "epoch", False, "frontal_only"
    data.questions_per_image = questions
    return Composition(config, open_release(cxr, folder / QBA), folder, films, questions)


def unique_questions(films: int, questions: int, share: float, together: int) -> list[int]:
    """For each film the number of its questions that are asked about no other film.

    With k such questions a film, b films together have b·k + (M - k) distinct texts among b·M questions.
    """
    together = min(together, films)
    if together == 1:
        return [questions] * films
    each = questions * (share * together - 1) / (together - 1)
    each = min(float(questions), max(0.0, each))
    return [int((i + 1) * each + 1e-9) - int(i * each + 1e-9) for i in range(films)]


def _studies(base: Release, films: int) -> list[tuple[int, int]]:
    """Training studies with one frontal film: so every design sees the same film."""
    frontal = base.images[base.images["view"].isin(("AP", "PA"))]
    count = frontal.groupby("study_id").size()
    train = set(frontal.loc[frontal["split"] == "train", "study_id"])
    usable = [key for key in base.studies() if key[1] in train and count[key[1]] == 1 and _answerable(base, key)]
    if len(usable) < films:
        raise DataError(f"only {len(usable)} of {films} films found in the look-alike release: use fewer films")
    return usable[:films]


def _answerable(base: Release, key: tuple[int, int]) -> list[dict]:
    return [q for q in base.read_qa(*key)["questions"] if isinstance(parse_question(q), Question)]


def _write(
    root: Path, base: Release, studies: list[tuple[int, int]], questions: int, unique: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    texts = texts_of(base, rng)
    common = list(islice(texts, questions))
    members = {}
    for key, own in zip(studies, unique, strict=True):
        wanted = common[: questions - own] + list(islice(texts, own))
        answers = _answerable(base, key)
        rng.shuffle(answers)
        chosen = [answers[n % len(answers)] for n in range(questions)]
        rng.shuffle(wanted)
        renamed = [
            q | {"question": text, "question_id": f"{q['question_type']}_{n:03d}"}
            for n, (q, text) in enumerate(zip(chosen, wanted, strict=True))
        ]
        stem = f"p{str(key[0])[:2]}/p{key[0]}/s{key[1]}"
        members[f"qa/{stem}.qa.json"] = base.read_qa(*key) | {"questions": renamed}
        members[f"scene_data/{stem}.scene_graph.json"] = base.read_scene_graph(*key)
    _write_members(root, members)
    (root / "metadata").mkdir()
    (root / "metadata" / "dataset_info.json").write_text(json.dumps(base.info), encoding="utf-8")


def _write_members(root: Path, members: dict[str, dict]) -> None:
    """Both as single files and as the two archives of the release."""
    contents = {path: json.dumps(content, separators=(",", ":")) for path, content in members.items()}
    for path, text in contents.items():
        file = root / FOLDERS / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for name in ("qa", "scene_data"):
        with zipfile.ZipFile(root / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path, text in contents.items():
                if path.startswith(f"{name}/"):
                    archive.writestr(path, text)


def texts_of(base: Release, rng: random.Random) -> Iterator[str]:
    """Question texts, each once: first those of the release, then made-up ones of the same kind."""
    found = sorted({q["question"] for key in base.studies() for q in base.read_qa(*key)["questions"]})
    rng.shuffle(found)
    yield from found
    known = set(found)
    pairs = [(entity, region) for entity in base.entities for region in base.region_names]
    rng.shuffle(pairs)
    forms = ("Is there {} in the {}?", "Does the {1} show any sign of {0}?", "How severe is the {} seen in the {}?")
    for form in forms:
        for pair in pairs:
            if (text := form.format(*pair)) not in known:
                yield text
