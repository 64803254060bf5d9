"""What holds for the whole repository: promised files, one-way imports, forbidden calls, the scripts."""

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["utils", "configs", "data", "models", "training", "benchmarks"]
COMMANDS = ["setup_data.py", "analyze_data.py", "train_mimic_cxr.py", "evaluate.py"]
HEAVY = ["torch", "timm", "transformers", "pandas", "pyarrow", "sklearn", "wandb"]

PROMISED = f"""
    {" ".join(COMMANDS)} requirements.txt environment.yml LICENSE README.md CITATION.cff .ci/run
    configs/default_config.yaml configs/tiny_config.yaml configs/pretrain_config.yaml configs/finetune_config.yaml
    configs/deepspeed_config.json configs/mimic_cxr_config.py data/mimic_cxr_dataset.py data/label_space.py
    models/mimic_vqa_model.py training/loss.py training/metrics.py utils/utils.py utils/hardware_utils.py
    scripts/quickstart.sh scripts/test.sh scripts/launch_distributed_training.sh scripts/setup_gcp.sh
    scripts/slurm/train.sbatch
""".split()


def sources() -> list[Path]:
    """Every Python file that is not a test."""
    folders = [ROOT / name for name in [*LAYERS, "scripts", "examples"]]
    return sorted([*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))])


@pytest.mark.parametrize("path", PROMISED)
def test_promised_files(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("name", LAYERS)
def test_top_level_names_are_ours(name):
    """`data`, `models` and `utils` are common names: another package of that name would be imported without a word."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert Path(spec.origin).parent == ROOT / name


# Imports


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def wrong_direction(layer: str, tree: ast.AST) -> set[str]:
    return imported(tree) & {
        *LAYERS[LAYERS.index(layer) + 1 :],
        *(name.removesuffix(".py") for name in COMMANDS),
        "tests",
    }


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_one_way(layer):
    wrong = {}
    for path in (ROOT / layer).rglob("*.py"):
        if found := wrong_direction(layer, ast.parse(path.read_text(encoding="utf-8"))):
            wrong[str(path.relative_to(ROOT))] = found
    assert wrong == {}


def test_a_wrong_import_would_be_found():
    assert wrong_direction("data", ast.parse("def f():\n    from models.heads import x")) == {"models"}
    assert wrong_direction("models", ast.parse("import data.batch, torch")) == set()


def test_settings_and_utilities_import_nothing_heavy():
    modules = [f"{layer}.{path.stem}" for layer in LAYERS[:2] for path in (ROOT / layer).glob("[!_]*.py")]
    program = f"import sys, {', '.join(modules)}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Forbidden calls

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {"extractall", "unsafe_load", "full_load", "system", "popen"}


def call_problem(node: ast.Call) -> str | None:
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    name = ast.unparse(node.func)
    if name in UNSAFE_NAMES or name.rpartition(".")[2] in UNSAFE_ATTRIBUTES:
        return name
    if "trust_remote_code" in keywords:
        return "trust_remote_code"
    for keyword, wrong in (("shell", True), ("allow_pickle", True), ("weights_only", False)):
        if keyword in keywords and getattr(keywords[keyword], "value", wrong) == wrong:
            return keyword
    if name == "torch.load" and "weights_only" not in keywords:
        return name
    if name in ("yaml.load", "yaml.load_all"):
        loader = ast.unparse(keywords["Loader"]) if "Loader" in keywords else ""
        return None if loader in ("yaml.SafeLoader", "yaml.CSafeLoader") else name
    return None


def unsafe_names(node: ast.AST) -> list[str]:
    """Of pickle only the exception may be used, which torch.load raises; of its like nothing."""
    if isinstance(node, ast.Import):
        plain = ("pickle", None)
        return [a.name for a in node.names if a.name.split(".")[0] in UNSAFE_MODULES and (a.name, a.asname) != plain]
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in UNSAFE_MODULES:
        return [alias.name for alias in node.names if alias.name != "UnpicklingError"]
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and node.attr != "UnpicklingError":
        return [f"pickle.{node.attr}"]
    return []


def forbidden(text: str) -> list[str]:
    tree = ast.parse(text)
    found = []
    for node in ast.walk(tree):
        found += [f"line {node.lineno}: {name}" for name in unsafe_names(node)]
        if isinstance(node, ast.Call) and (problem := call_problem(node)):
            found.append(f"line {node.lineno}: {problem}")
    return found


def test_no_source_file_makes_a_forbidden_call():
    assert len(sources()) > 10
    found = {str(path.relative_to(ROOT)): forbidden(path.read_text(encoding="utf-8")) for path in sources()}
    assert {path: problems for path, problems in found.items() if problems} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.loads(x)",
        "import pickle as p",
        "import dill",
        "def f():\n    from pickle import loads",
        "eval('1')",
        "exec('1')",
        "subprocess.run('ls', shell=True)",
        "zipfile.ZipFile(p).extractall(q)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "os.system('ls')",
    ],
)
def test_a_forbidden_call_would_be_found(text):
    assert forbidden(text)


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "import pickle\ntry: f()\nexcept pickle.UnpicklingError: g()",
        "yaml.safe_load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "torch.load(path, weights_only=True)",
        "subprocess.run(['ls'])",
        "re.compile('a')",
        "torch.compile(model)",
    ],
)
def test_a_harmless_call_is_allowed(text):
    assert forbidden(text) == []


# Files of the repository itself


def test_gitignore_hides_results_and_no_source():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")

    def ignored(paths):
        command = ["git", "check-ignore", "--no-index", "--stdin"]
        done = subprocess.run(command, cwd=ROOT, input="\n".join(paths), capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        return set(done.stdout.split())

    kept = [str(path.relative_to(ROOT)) for path in sources()]
    kept += [*PROMISED, "requirements-dev.txt", "constraints.txt", "data/new.py", "data/names.csv", "docs/results/a.md"]
    kept += ["scripts/quickstart/a.sh", "tests/data/a.json", "models/checkpoints/a.py", "configs/env.yaml"]
    assert ignored(kept) == set()
    made = [
        ".venv/x",
        "data_cache/x",
        "checkpoints/x",
        "results/x",
        "quickstart/x",
        "wandb/x",
        ".env",
        "data/__pycache__/x",
    ]
    assert ignored(made) == set(made)


def test_licence_citation_and_environment():
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License")
    assert "2026 the SSG-VQA for MIMIC-CXR authors" in licence
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "MIT"
    years = [(work["authors"][0]["family-names"], work["year"]) for work in citation["references"]]
    assert years == [("Yuan", 2024), ("Müller", 2025), ("Johnson", 2019), ("Johnson", 2024)]
    assert citation["references"][1]["doi"] == "10.13026/8qmz-da41"
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "mimic-vqa"
    assert "python=3.11" in environment["dependencies"]
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.txt"]}


def test_deepspeed_settings_leave_to_the_trainer_what_the_trainer_knows():
    settings = json.loads((ROOT / "configs" / "deepspeed_config.json").read_text())
    assert settings["zero_optimization"]["stage"] == 2
    for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        assert settings[key] == "auto"


# The environment of the shell scripts


@pytest.fixture
def checkout(tmp_path):
    """A folder with _env.sh, a requirements list and a `python` whose pip only takes notes."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "_env.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("something\n")
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    log = tmp_path / "pip.log"
    python.write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "-m pip" ]; then echo "$@" >>{log}; exit ${{PIP_CODE:-0}}; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return tmp_path


def source_env(folder, then="", **variables):
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    command = ["bash", "-c", f"set -euo pipefail; source scripts/_env.sh; {then}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def installs(folder):
    log = folder / "pip.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_requirements_are_installed_once_and_again_when_the_list_changes(checkout):
    assert source_env(checkout).returncode == 0
    assert installs(checkout) == 1
    assert source_env(checkout).stderr == ""
    assert installs(checkout) == 1
    (checkout / "requirements.txt").write_text("something else\n")
    source_env(checkout)
    assert installs(checkout) == 2


def test_a_failed_installation_is_tried_again(checkout):
    done = source_env(checkout, PIP_CODE="1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: pip could not install requirements.txt")
    assert source_env(checkout).returncode == 0
    assert installs(checkout) == 2


def test_an_active_environment_is_used_only_when_asked(checkout):
    active = checkout / "active"
    shutil.copytree(checkout / ".venv", active)
    path = f"{active}/bin:{os.environ['PATH']}"
    done = source_env(checkout, 'echo "$(command -v python)"', VIRTUAL_ENV=str(active), PATH=path)
    assert done.stdout.strip() == str(checkout / ".venv/bin/python")
    done = source_env(
        checkout, 'echo "$(command -v python)"', VIRTUAL_ENV=str(active), PATH=path, SSGVQA_USE_CURRENT_ENV="1"
    )
    assert done.stdout.strip() == str(active / "bin/python")
    done = source_env(checkout, SSGVQA_USE_CURRENT_ENV="1")
    assert done.returncode == 2
    assert "no environment is active" in done.stderr


def test_an_old_python_is_refused_with_one_line(checkout):
    shutil.rmtree(checkout / ".venv")
    tools = checkout / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "rm", "sh"):
        (tools / name).symlink_to(shutil.which(name))
    old = tools / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = source_env(checkout, PATH=str(tools))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no Python 3.11, 3.12 or 3.13 found (python3 is Python 3.9.2)" in done.stderr


def test_shell_scripts_are_sound_and_executable():
    scripts = [*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "scripts").rglob("*.sbatch"), ROOT / ".ci" / "run"]
    assert len(scripts) >= 5
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True)
        assert path.name.startswith("_") or os.access(path, os.X_OK), path
