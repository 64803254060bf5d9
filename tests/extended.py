"""What is run in a copy of the repository that was extended as CONTRIBUTING.md says: `python -m tests.extended PROGRAM ...`.

Each program prints what it returns as its last line, for `tests.extending.run_there`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def head_reads() -> dict:
    """What becomes of answers about views, and of questions of one's own."""
    from data import label_space
    from data.answer_text import TARGETS
    from data.answers import parse_question
    from data.own_data import TYPE_OF_HEAD

    def parsed(text: str) -> int | str:
        answers = [{"answer_type": "main_answer", "text": text}]
        question = {"question_type": "B14_describe_acquisition", "question": "How was it acquired?", "answers": answers}
        found = parse_question(question)
        return getattr(found, "reason", None) or found.target

    texts = ("The views are: PA and LATERAL.", "The views are: AP and unrecorded.", "It was acquired.", "PALL")
    return {
        "checksum": label_space.checksum(),
        "targets": [parsed(text) for text in texts],
        "own": [TARGETS["view"](text) for text in ("lateral, AP", "oblique", "not lateral")],
        "type": TYPE_OF_HEAD["view"],
        "classes": label_space.as_json()["heads"]["view"],
    }


def head_trains(folder: str) -> dict:
    """From a generated release to a report by the commands, with few steps; nothing but the copy knows of the new head."""
    import evaluate
    import setup_data
    import train_mimic_cxr
    from data.synthetic import write_release
    from tests.tiny_training import make_config
    from training import question_only

    question_only.MOST_STEPS, question_only.MOST_PASSES = 20, 2
    place = Path(folder)
    write_release(place / "release", 40, 8, workers=1, progress=False)  # with views in its validation split
    config = make_config(place / "run", max_steps=6, eval_steps=6, save_steps=6)
    config.data.mimic_cxr_path = str(place / "release" / "mimic-cxr-jpg")
    config.data.mimic_qa_path = str(place / "release" / "mimic-ext-cxr-qba")
    config.data.index_dir, config.data.quality_grade = str(place / "index"), "all"
    config.data.question_types = (
        "B14_describe_acquisition D01_describe_finding D02_has_finding D03_where_is_finding".split()
    )
    config.training.gradient_accumulation_steps, config.data.questions_per_image = 1, 64
    config.training.batch_size_per_gpu, config.evaluation.bootstrap_samples = 8, 20
    write_config(place / "config.yaml", config)
    common = ["--config", str(place / "config.yaml")]
    codes = [
        setup_data.main(common),
        train_mimic_cxr.main([*common, "--no_auto"]),
        evaluate.main([*common, "--model_path", f"{place}/run/best_model", "--output_dir", f"{place}/results"]),
    ]
    return {"codes": codes, "losses": head_learns(place / "learns")}


def head_learns(place: Path) -> list[float]:
    """Its loss while a model overfits questions whose text says the answer."""
    from tests.mini_index import write_mini_index
    from tests.tiny_training import GRADE, make_config, make_trainer, study

    asked = [("How is it seen, from the front ?", 0b010), ("How is it seen, from the side ?", 0b100)]
    studies = [study(split, number) for split, n in (("train", 16), ("validate", 4)) for number in range(n)]
    for number, one in enumerate(studies):
        text, target = asked[number % 2]
        one["questions"].append(("B14_describe_acquisition", text, target, GRADE))
    index = write_mini_index(place / "index", studies)
    config = make_config(place / "run", max_steps=40, eval_steps=40, save_steps=40, learning_rate=1e-2)
    config.data.questions_per_image = 8
    trainer = make_trainer(index, config)
    trainer.fit()
    sink = trainer.sinks._sinks[0]
    return [values["train/view_loss"] for _, values in sink.lines if "train/view_loss" in values]


def write_config(path: Path, config) -> None:
    from configs.mimic_cxr_config import to_yaml

    path.write_text(to_yaml(config), encoding="utf-8")


def set_trains(data: str, start: str, folder: str) -> dict:
    """Fine-tune a model on the new set and evaluate it, by the commands; and what is said without a model to start from."""
    import evaluate
    import train_mimic_cxr
    from configs.mimic_cxr_config import load_config
    from training import question_only
    from training.external import external_index
    from utils.errors import ConfigError

    question_only.MOST_STEPS, question_only.MOST_PASSES = 5, 1
    place, start = Path(folder), Path(start)
    settings = {
        "data.slake_path": data,
        "data.index_dir": place / "index",
        "training.init_from": start,
        "training.max_steps": 3,
        "training.eval_steps": 3,
        "evaluation.bootstrap_samples": 20,
    }
    try:
        external_index(load_config(sets=[f"data.slake_path={data}"]).config, None)
    except ConfigError as error:
        refusal = str(error)
    arguments = ["--config", str(start / "config.yaml")]
    arguments += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    codes = [
        train_mimic_cxr.main([*arguments, "--output_dir", str(place / "run"), "--no_auto"]),
        evaluate.main([*arguments, "--model_path", f"{place}/run/best_model", "--output_dir", f"{place}/results"]),
    ]
    return {"codes": codes, "without a model": refusal}


def set_reads(folder: str) -> dict:
    """What the new reader makes of a folder, and what is said of one that is something else, and of two sets at once."""
    from configs.mimic_cxr_config import PLACES, load_config
    from data.slake import read_slake
    from utils.errors import ConfigError, DataError

    read = read_slake(Path(folder))
    wrong = []
    for attempt in (
        lambda: read_slake(Path(folder) / "imgs"),
        lambda: load_config(sets=[f"data.slake_path={folder}", "data.own_data=films.csv"]),
    ):
        try:
            attempt()
        except (ConfigError, DataError) as error:
            wrong.append(str(error))
    return {
        "records": [[r.split, r.type, r.target, r.patient, r.image_id] for r in read.records],
        "fates": read.fates,
        "wrong": wrong,
        "is_place": "data.slake_path" in PLACES,
    }


def own_backbone() -> dict:
    """The network that is registered in the copy, in a model that answers and is rebuilt from its folder."""
    import tempfile

    import torch

    from configs.mimic_cxr_config import Config
    from models.mimic_vqa_model import SSGVQA
    from tests import small_model

    model = small_model.build(visual_backbone="plain_cnn", visual_stride=32)
    images = small_model.images()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/m", small_model.small_tokenizer(), Config(model=model.config))
        again = SSGVQA.from_pretrained(f"{folder}/m")[0]
    with torch.no_grad():
        maps, same = (one.encode_images(images).feature_map for one in (model, again))
    return {
        "architecture": again.image_encoder.spec.architecture,
        "shape": list(maps.shape),
        "same": torch.equal(maps, same),
    }


if __name__ == "__main__":
    _, program, *given = sys.argv
    print(json.dumps(globals()[program](*given)))
