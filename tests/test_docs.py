"""The documents tell the truth: links resolve, commands and settings exist, lists are those of the code; and the launcher."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from configs import loading
from configs.mimic_cxr_config import TYPES, Config, load_config
from data.doctor.oddities import FILES
from data.index.build import NO_IMAGE
from data.label_space import QUESTION_TYPES, Head
from data.release.check import ODD
from data.vqa_rad import _rules
from tests.doc_blocks import DOCUMENTS, blocks
from training.evaluation import ROWS

ROOT = Path(__file__).resolve().parent.parent
DOCS = DOCUMENTS
HOSTS = {
    *(
        "physionet.org",
        "doi.org",
        "arxiv.org",
        "osf.io",
        "github.com",
        "huggingface.co",
        "pytorch.org",
        "docs.python.org",
    ),
    *(
        "keepachangelog.com",
        "semver.org",
        "gradio.app",
        "www.gradio.app",
        "onnx.ai",
        "onnxruntime.ai",
        "jupytext.readthedocs.io",
        "www.med-vqa.com",
    ),
}
"""Where links out of the documents may lead: no test opens them"""
PROMISED = """
    MIMIC_CXR_VQA_ANALYSIS MULTI_GPU_TRAINING TRAINING_GUIDE SETUP_DATA architecture_diagram methodology mimic-cxr-jpg
    mimic-ext-cxr-qba
""".split()

NO_SETTINGS = {"model.safetensors", "training.report", "training.view_head_weight", "data.slake_path"}
"""Words that look like a setting: a file and a module; and what CONTRIBUTING.md adds as examples."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
SETTING = r"(?<![\w./-])((?:" + "|".join(sorted({key.split(".")[0] for key in TYPES})) + r")\.[a-z]\w*)\b(?!\()"
FOLDERS = "configs|data|models|training|utils|scripts|docs|tests"

documents = pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_promised_documents():
    assert {f"{name}.md" for name in PROMISED} <= {path.name for path in DOCS}


# Links


def anchors(text: str) -> set[str]:
    """What headings are called in links, as GitHub makes it: the second of the same words ends with -1; and named ones."""
    text, found = FENCE.sub("", text), []
    for title in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        found.append(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"))
    numbered = {f"{name}-{n}" for name in found for n in range(1, found.count(name))}
    return {*found, *numbered, *re.findall(r"<a (?:id|name)=\"([\w-]+)\"", text)}


def broken_links(text: str, path: Path) -> list[str]:
    broken = []
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def strange_links(text: str) -> list[str]:
    """Links out of the documents that are not https, or lead where none of HOSTS is."""
    found = re.findall(r"(?<![\w/])([a-z]\w*)://([\w.-]+)", FENCE.sub("", text))
    return [f"{scheme}://{host}" for scheme, host in found if scheme != "https" or host not in HOSTS]


@documents
def test_links_resolve(path):
    assert broken_links(path.read_text(encoding="utf-8"), path) == []


def test_a_broken_link_would_be_found():
    text = "[a](nowhere.md) [b](README.md) [c](README.md#no-such-part) [d](https://example.org) [e](docs/SETUP_DATA.md#commands)"
    assert broken_links(text, ROOT / "x.md") == ["nowhere.md", "README.md#no-such-part"]
    twice = '## A `b`: c\n## A b c\n<a id="named"></a>\n```\n## not this\n```\n'
    assert anchors(twice) == {"a-b-c", "a-b-c-1", "named"}


@documents
def test_links_out_have_known_hosts(path):
    assert strange_links(path.read_text(encoding="utf-8")) == []


def test_a_strange_link_would_be_found():
    text = "[a](https://doi.org/1) http://doi.org/2 <https://example.org/x> see https://physionet.org, s3://bucket"
    assert strange_links(text) == ["http://doi.org", "https://example.org", "s3://bucket"]


@documents
def test_named_files_exist(path):
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


# Commands


def commands(text: str) -> list[list[str]]:
    """The words of every command in the shell blocks of a document, without assignments in front."""
    found = []
    for language, block in FENCE.findall(text):
        if language not in ("bash", "sh", "shell", "console", ""):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if not re.match(r"\s*(\$ )?(\w+=\S+ )*(python\b|\./scripts/|source |bash )", line):
                continue
            for part in re.split(r"&&|\||;", line.strip().removeprefix("$ ").split(" #")[0]):
                words = shlex.split(part)
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    words.pop(0)
                if words:
                    found.append(words)
    return found


WITH_SUBCOMMANDS = ["scripts/benchmark.py", "scripts/hub.py", "scripts/track.py"]


@cache
def help_of(script: str, *subcommand: str) -> str:
    command = [sys.executable, script, *subcommand, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def command_problem(words: list[str]) -> str | None:
    """Why a command of ours cannot be given like this; None for those of others."""
    known = ""
    if words[0] == "python" and words[1] == "-m":
        name = words[2].replace(".", "/") + ".py"
    elif words[0] == "python":
        name = words[1]
    else:
        name = words[0] if words[0].startswith("./scripts/") else words[-1]
        if "scripts/" not in name:
            return None
    script = ROOT / name
    if not script.is_file():
        return f"{name} does not exist"
    if words[0] == "python" and words[1] != "-m":
        known = help_of(name, *(word for word in words[2:3] if name in WITH_SUBCOMMANDS))
    else:
        known = script.read_text(encoding="utf-8")
        if "exec python -m scripts.launch" in known:
            known += help_of("train_mimic_cxr.py")
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    unknown = [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", known)]
    return f"{name} has no {', '.join(unknown)}" if unknown else None


@documents
def test_commands_exist(path):
    problems = [command_problem(words) for words in commands(path.read_text(encoding="utf-8"))]
    assert [problem for problem in problems if problem] == []


def test_a_wrong_command_would_be_found():
    text = """```bash
X=1 python setup_data.py --extract_all --mimic_qa_path $Y   # --not_this
python setup_data.py --extract && python nothing.py
./scripts/launch_distributed_training.sh --config a.yaml \\
    --dry_run --phase x
python -m utils.hardware_utils --simulate "4x NVIDIA L4" --gpus 3
```
"""
    problems = [command_problem(words) for words in commands(text)]
    assert problems == [
        None,
        "setup_data.py has no --extract",
        "nothing.py does not exist",
        "./scripts/launch_distributed_training.sh has no --phase",
        "utils/hardware_utils.py has no --gpus",
    ]


# Settings


def unknown_settings(text: str) -> set[str]:
    text = FENCE.sub(lambda block: "" if block[1] in ("python", "diff") else block[0], text)
    return set(re.findall(SETTING, text)) - set(TYPES) - NO_SETTINGS


@documents
def test_settings_exist(path):
    assert unknown_settings(path.read_text(encoding="utf-8")) == set()


def test_a_wrong_setting_would_be_found():
    text = "`data.index_dir`, `training.lr`, --set model.fusion=sim, training/model.py, metadata.csv, model.eval(), x.data.y"
    assert unknown_settings(text) == {"training.lr"}


@documents
def test_stated_defaults_are_the_defaults(path):
    stated = re.findall(rf"`{SETTING}` \(?(\d+(?:\.\d+)?)(?![\w.]*\w)", path.read_text(encoding="utf-8"))
    wrong = {key: value for key, value in stated if float(value) != loading.get(Config(), key)}
    assert wrong == {}


CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.name != "vqa_rad.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_file_is_valid(path):
    loaded = load_config(path)
    assert [origin for origin in loaded.origin.values() if origin not in ("default", path.name)] == []


def test_the_rules_of_vqa_rad_are_valid():
    _, table = _rules(ROOT / "configs" / "vqa_rad.yaml")
    assert {rule.head for rule in table} == set(Head)


def test_configurations_in_documents_are_valid(tmp_path):
    found = [
        block
        for path in DOCS
        for block in blocks(path.read_text(encoding="utf-8"), path.name)
        if block.language in ("yaml", "yml")
    ]
    assert len(found) >= 1
    for number, block in enumerate(found):
        shutil.copytree(ROOT / "configs", tmp_path / f"{number}")
        mine = tmp_path / f"{number}" / "mine.yaml"
        mine.write_text(block.text, encoding="utf-8")
        load_config(mine)


# Lists of the code


def rows(text: str) -> list[list[str]]:
    """The cells of every table row."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_counts_by_type_are_complete():
    table = {
        row[0].strip("`"): row
        for row in rows(read("MIMIC_CXR_VQA_ANALYSIS.md"))
        if len(row) == 5 and row[4].endswith("%")
    }
    assert list(table) == [kind.name for kind in QUESTION_TYPES]
    total = 42_172_827
    by_head: dict[str, int] = {}
    for kind in QUESTION_TYPES:
        _, strategy, head, count, share = table[kind.name]
        number = int(count.replace(",", ""))
        assert strategy == kind.strategy
        assert head == (kind.head.value if kind.head else "–") + (" (copy)" if kind.copies else "")
        assert share == f"{100 * number / total:.1f} %"
        by_head[head] = by_head.get(head, 0) + number
    assert sum(by_head.values()) == total
    sums = next(row for row in rows(read("MIMIC_CXR_VQA_ANALYSIS.md")) if row[0] == "questions (sum)")
    assert [int(cell.replace(",", "")) for cell in sums[1:]] == [
        by_head[head] for head in ("binary", "category", "category (copy)", "region", "severity", "–")
    ]


def test_the_routing_table_is_that_of_the_code():
    wanted: dict[str, list[str]] = {}
    for kind in QUESTION_TYPES:
        head = (kind.head.value if kind.head else "none") + (", copy types" if kind.copies else "")
        wanted.setdefault(head, []).append(kind.name)
    part = read("methodology.md").split("## Routing")[1].split("\n## ")[0]
    assert {row[0]: re.findall(r"`(\w+)`", row[1]) for row in rows(part) if "`" in row[1]} == wanted


def test_every_reason_without_target_is_explained():
    tree = ast.parse((ROOT / "data" / "answers.py").read_text(encoding="utf-8"))
    returned = {
        node.value
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Return)
        for node in ast.walk(statement)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    reasons = {text for text in returned if re.fullmatch(r"[a-z]+(_[a-z]+)+", text)}
    assert {"unsupported_type", "unknown_type", "severity_ambiguous"} <= reasons
    assert {reason for reason in reasons if f"`{reason}`" not in read("SETUP_DATA.md")} == set()


def test_every_problem_kind_is_explained():
    found = re.findall(r"\"kind\": \"(\w+)\"", (ROOT / "data/index/part.py").read_text(encoding="utf-8"))
    assert {"graph_missing", "no_questions"} <= set(found) <= set(FILES)
    kinds = {*FILES, *ODD, *NO_IMAGE.values()}
    assert {kind for kind in kinds if f"`{kind}`" not in read("SETUP_DATA.md")} == set()


def test_every_row_of_a_report_is_explained():
    assert [row for row in ROWS if f"`{row}`" not in read("EVALUATION.md")] == []


# The launcher


@pytest.fixture
def launcher(tmp_path):
    """A copy of the scripts whose `python` sees no GPU and, instead of training, prints its arguments."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$1 $2" in\n"-m pip") ;;\n'
        f'train_mimic_cxr.py*) printf "<%s>" "$@" ;;\n*) exec {sys.executable} "$@" ;;\nesac\n'
    )
    python.chmod(0o755)
    (tmp_path / "configs").symlink_to(ROOT / "configs")

    def launch(*options, cwd=tmp_path):
        command = [str(tmp_path / "scripts" / "launch_distributed_training.sh"), *options]
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
        }
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)

    return launch


def test_launcher_has_defaults_that_the_user_can_replace(launcher, tmp_path):
    done = launcher()
    assert done.stdout.startswith("HARDWARE DETECTION RESULTS\n  GPUs:              none (CPU only)\n")
    assert done.stdout.endswith("\n<train_mimic_cxr.py><--config><configs/default_config.yaml><--resume><auto>")
    shutil.copy(ROOT / "configs" / "tiny_config.yaml", tmp_path / "mine.yaml")
    (tmp_path / "default_config.yaml").symlink_to(ROOT / "configs" / "default_config.yaml")
    done = launcher("--resume", "never", "--set", "wandb.name=two words", "--config=mine.yaml")
    words = f"<--config><{tmp_path}/mine.yaml><--resume><auto><--resume><never><--set><wandb.name=two words>"
    assert done.stdout.endswith(f"\n<train_mimic_cxr.py>{words}")


def test_launcher_dry_run_starts_nothing_and_needs_no_data(launcher):
    done = launcher("--simulate", "4x NVIDIA L4", "--dry_run")
    assert done.returncode == 0
    assert "<train_mimic_cxr.py>" not in done.stdout
    command = "--nproc_per_node 4 train_mimic_cxr.py --config configs/default_config.yaml --resume auto"
    assert f"\n  python -m utils.torchrun --standalone {command}\n" in done.stdout


def test_launcher_works_from_any_directory(launcher, tmp_path):
    other = tmp_path / "some where"
    other.mkdir()
    (other / "mine.yaml").write_text("wandb:\n  name: mine\n")
    started = "train_mimic_cxr.py --config"
    done = launcher("--dry_run", "--config", "mine.yaml", cwd=other)
    assert f"{started} '{other}/mine.yaml'" in done.stdout
    done = launcher("--dry_run", "--config", "configs/tiny_config.yaml", cwd=other)
    assert f"{started} configs/tiny_config.yaml" in done.stdout


def test_launcher_helps_and_refuses_without_an_environment(tmp_path, launcher):
    shutil.rmtree(tmp_path / ".venv")
    assert launcher("--help").stdout.startswith("Shows the hardware, plans, and trains")
    done = launcher("--config")
    assert (done.returncode, done.stderr.splitlines()) == (2, ["error: --config needs a file: give its path"])
