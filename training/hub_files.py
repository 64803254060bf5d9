"""What is uploaded of a model folder: listed files, each made anew in an empty folder from what may be in it.

Nothing is taken because it is there. Weights are copied byte by byte when their header says nothing but the lineage; JSON and
YAML are written again from numbers and listed words; README.md is the model card of exactly these. Optimizer states, logs,
predictions, questions, paths and ids have no way in. Of a model of credentialed lineage the names of findings and regions must be
those that this program knows, and the word pieces must be a public encoder's: else words of the reports would go with it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open

from configs.mimic_cxr_config import Config, ModelConfig, from_dict
from configs.sharing import shared_settings
from data import label_space
from data.label_space import HEADS
from data.names import is_known_entity, resolve_region
from data.vocabulary import Vocabulary
from models import model_folder
from models.hub_folder import CONTROL
from models.model_folder import CONFIG, LABELS, LINEAGE, WEIGHTS
from models.probabilities import TEMPERATURES
from models.routing import ROUTING
from training.model_card import LOOK_ALIKE, OTHER_SET, RELEASE, UNRECORDED, model_card
from utils.errors import CheckpointError, HubError
from utils.privacy import make_private, private_directory, without_ids
from utils.utils import sha256_of, write_atomic, write_json

REPORT, METRICS, CARD = "report.json", "metrics.json", "README.md"
KINDS = (LOOK_ALIKE, RELEASE, OTHER_SET, UNRECORDED)
PUBLIC_SETS = ("VQA-RAD", "MIMIC-Ext-CXR-QBA", "look-alike release", "a generated look-alike release", "MIMIC-CXR-JPG and "
               "MIMIC-Ext-CXR-QBA layout")  # fmt: skip
"""Names of data sets that may be told; any other is OWN"""
OWN = "own data"
REPORT_PARTS = ("headline", "rows", "intervals", "gain", "gains", "interval")
PROVENANCE = (
    "confidence",
    "seed",
    "questions",
    "studies",
    "patients",
    "synthetic",
    "credentialed",
    "credentialed_data",
)
_HASH, _WORD = re.compile(r"[0-9a-f]{8,64}"), re.compile(r"[A-Za-z][\w.+-]{0,39}", re.ASCII)
_TOKENIZER = {
    *(
        "backend",
        "cls_token",
        "mask_token",
        "model_max_length",
        "pad_token",
        "sep_token",
        "unk_token",
        "tokenizer_class",
    ),
    *("do_lower_case", "do_basic_tokenize", "strip_accents", "tokenize_chinese_chars", "clean_up_tokenization_spaces"),
    *("bos_token", "eos_token", "add_prefix_space", "lowercase", "never_split"),
}


def write_shared_folder(source: Path, target: Path, report: dict | None = None, metrics: dict | None = None) -> None:
    """Write into `target`, a new folder, what of the model folder `source` may be uploaded, its control included.

    Args:
        report: `report.json` of `evaluate.py` about these weights, for the card.
        metrics: in the place of the folder's metrics.json, which a checkpoint has not.
    Raises:
        CheckpointError: `source` is no complete model folder.
        HubError: something in it must not be uploaded, or the report is not about it.
    """
    if target.exists():
        raise HubError(f"{target} is there already: name a folder that is not")
    private_directory(target)
    credentialed = model_folder.read_lineage(source)
    config = _write_model(source, target, credentialed, ("vocabulary.json", "text_config.json", "visual_config.json"))
    if (source / CONTROL).is_dir():
        private_directory(target / CONTROL)
        _write_model(source / CONTROL, target / CONTROL, credentialed, ("text_config.json",))
    metrics = shared_metrics(_json(source / METRICS) if metrics is None else metrics)
    write_json(target / METRICS, metrics)
    sha256 = sha256_of(source / WEIGHTS)
    for name, keys in {TEMPERATURES: [head.value for head in HEADS], ROUTING: ["threshold"]}.items():
        _write_measured(source / name, target / name, sha256, keys)
    if report is not None:
        report = shared_report(report, sha256)
        write_json(target / REPORT, report)
    write_atomic(target / CARD, model_card(config, metrics, credentialed, report))


def shared_card(source: Path, report: dict | None = None) -> str:
    """The model card as it would be uploaded. Raises as `write_shared_folder`."""
    stored = model_folder.read(source, ("visual_config.json",))
    report = None if report is None else shared_report(report, sha256_of(source / WEIGHTS))
    config = from_dict(_settings(stored.config, stored.json["visual_config.json"]))
    return model_card(config, shared_metrics(_json(source / METRICS)), stored.credentialed, report)


def _write_model(source: Path, target: Path, credentialed: bool, json_files: tuple[str, ...]) -> Config:
    """The parts that the model and its control both have; returns the settings as they are shared."""
    stored = model_folder.read(source, json_files)
    visual, vocabulary = stored.json.get("visual_config.json"), stored.json.get("vocabulary.json")
    names = Vocabulary.from_json(vocabulary) if vocabulary else None
    if credentialed:
        check_words(stored.config, names)
    if names:
        write_json(target / "vocabulary.json", names.as_json())
    if visual is not None:
        if _plain(visual) != visual:
            raise HubError(
                f"{source / 'visual_config.json'} has texts that no image encoder needs, and is not uploaded"
            )
        write_json(target / "visual_config.json", visual)
    write_json(target / "text_config.json", _shared_text_config(stored.json["text_config.json"]))
    write_json(target / LABELS, label_space.as_json())
    settings = _settings(stored.config, visual)
    write_atomic(target / CONFIG, yaml.safe_dump(settings, sort_keys=False))
    _write_tokenizer(stored.tokenizer, target)
    _copy_weights(source / WEIGHTS, target / WEIGHTS)
    return from_dict(settings)


def _copy_weights(source: Path, target: Path) -> None:
    try:
        with safe_open(source, "pt") as weights:
            header = weights.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{source}: cannot be read ({error}); copy the folder again") from error
    if not all(found in ((LINEAGE, "true"), (LINEAGE, "false"), ("format", "pt")) for found in header.items()):
        raise HubError(f"{source}: its header has more than the lineage, and is not uploaded; save the model again")
    try:
        link_or_copy(source, target)
    except OSError as error:
        raise HubError(f"{target}: the files of the upload cannot be written ({error.strerror})") from error


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes under another name: at once on the same disk. A model folder's files are replaced, never rewritten."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def unlink_copies(folder: Path) -> None:
    """Give a folder that is to stay files of its own: who changes them must not change the model."""
    for path in folder.rglob(WEIGHTS):
        own = path.with_suffix(".copy")
        shutil.copyfile(path, own)
        os.replace(own, path)
    make_private(folder)


def _write_tokenizer(tokenizer, target: Path) -> None:
    """tokenizer.json has vocabulary and rules alone; of its settings those with known names."""
    write_atomic(target / "tokenizer.json", tokenizer.backend_tokenizer.to_str())
    with_all = {"tokenizer_class": type(tokenizer).__name__, **tokenizer.init_kwargs, **tokenizer.special_tokens_map}
    kept = {name: with_all[name] for name in sorted(_TOKENIZER & with_all.keys())}
    write_json(target / "tokenizer_config.json", {name: value for name, value in kept.items() if _is_short(value)})


def _is_short(value: object) -> bool:
    """A number, a switch, or a text like `[CLS]`."""
    is_text = isinstance(value, str) and len(value) <= 40 and "/" not in value[1:] and without_ids(value) == value
    return is_text or value is None or isinstance(value, (bool, int, float))


def _settings(config: Config, visual: dict | None) -> dict[str, dict]:
    """`visual`: visual_config.json; None of the text-only control, which reads no image."""
    return shared_settings(config, architecture=visual["architecture"] if visual else ModelConfig.visual_backbone)


def check_words(config: Config, vocabulary: Vocabulary | None) -> None:
    """HubError where the words of a model of credentialed lineage may come from its data, and not from what is published."""
    if not config.model.pretrained:
        raise HubError(
            "the word pieces of this tokenizer are words of credentialed questions, which are not uploaded; a model that is "
            "trained with model.pretrained: true has those of a public encoder"
        )
    if vocabulary is None:
        return
    unknown = sum(not is_known_entity(name) for name in vocabulary.entities)
    unknown += sum(resolve_region(name) is None for name in vocabulary.regions)
    if unknown:
        raise HubError(
            f"{unknown} names of findings or regions in vocabulary.json are not among those of the published data set that this "
            "program knows; words out of credentialed data are not uploaded"
        )


def _shared_text_config(stored: dict) -> dict:
    """What the architecture itself defines; a local folder's name and whatever else its file had stay here."""
    own = type(model_folder.text_config({"model_type": stored["model_type"]}))().to_dict()
    return _plain({name: value for name, value in stored.items() if name in own and name != "_name_or_path"})


def _write_measured(source: Path, target: Path, sha256: str, keys: Sequence[str]) -> None:
    """Numbers that an evaluation left beside a model, unless they are of other weights."""
    if not source.is_file():
        return
    stored = _json(source)
    if stored.get("model_sha256") == sha256:
        numbers = {name: stored[name] for name in keys if _is_number(stored.get(name))}
        write_json(target, numbers | {"model_sha256": sha256})


# Numbers of metrics and reports


def shared_metrics(stored: dict) -> dict:
    """metrics.json without a text that is not listed."""
    kept = _numbers({name: stored.get(name) for name in ("step", "questions_trained", "parameters", "validation")})
    if "question_only" in stored:
        kept["question_only"] = _numbers(stored["question_only"])
    data = stored.get("data")
    if isinstance(data, dict):
        is_own = data.get("name") not in PUBLIC_SETS
        kept["data"] = {
            "kind": data["kind"] if data.get("kind") in KINDS else UNRECORDED,
            "name": OWN if is_own else data["name"],
            "fingerprint": data["fingerprint"] if _is_hash(data.get("fingerprint")) else "not told",
            "filters": _filters(data.get("filters")),
            "notes": [],
        }
    return kept


def shared_report(report: dict, sha256: str) -> dict:
    """The numbers of report.json that a card needs. HubError when it is not about these weights, or not deployable."""
    try:
        source = report["provenance"]
        if source["model_sha256"] != sha256:
            raise HubError("the report is about other weights: evaluate this model folder, and give that report.json")
        if source["graph"] != "predicted":
            raise HubError(f"the report is about the graph `{source['graph']}`: give one of the predicted graph")
        kept = {part: _numbers(report[part]) for part in REPORT_PARTS}
        kept["provenance"] = {name: source[name] for name in PROVENANCE if _is_number(source.get(name))} | {
            "dataset": source["dataset"] if source["dataset"] in PUBLIC_SETS else OWN,
            "split": "test" if source["split"] == "test" else "validate",
            "graph": "predicted",
            "model_sha256": sha256,
            "index_fingerprint": source["index_fingerprint"] if _is_hash(source["index_fingerprint"]) else "not told",
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise HubError(f"the report is no report.json of evaluate.py ({type(error).__name__}: {error})") from error
    return kept


def _filters(text: object) -> str:
    known = re.fullmatch(r"grade (?:A\+{0,2}|B|C|D|all) or better, views \w+", str(text))
    return known[0] if known else "none" if text == "none" else "not recorded"


def _numbers(value: object) -> object:
    """Numbers and nothings, below words; of texts only the names of metrics."""
    if isinstance(value, dict):
        kept = {key: _numbers(inner) for key, inner in value.items() if key != "metric" and _is_word(key)}
        kept = {key: inner for key, inner in kept.items() if inner is not None or value[key] is None}
        return kept | ({"metric": value["metric"]} if _is_word(value.get("metric")) else {})
    return value if _is_number(value) else None


def _plain(value: object) -> object:
    """Numbers, words, and lists and mappings of them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items() if _is_word(key) or str(key).isdecimal()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value if value is None or _is_number(value) or _is_word(value) else None


def _is_word(value: object) -> bool:
    return isinstance(value, str) and _WORD.fullmatch(value) is not None and without_ids(value) == value


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float))


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: cannot be read (no mapping)")
    return found
