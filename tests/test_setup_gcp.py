"""Preparing a VM: a dry run changes nothing, keys end in one file that only the user can read, finished steps are skipped."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from utils.secrets_file import parse

ROOT = Path(__file__).resolve().parent.parent
CANARY = "canary-'5e1f\" $x"
FAKES = ("sudo", "apt-get", "nvidia-smi", "curl", "conda", "sha256sum")


@pytest.fixture
def setup(tmp_path):
    """Run the script in an empty home, with commands in place of those that would change the machine."""
    home, tools = tmp_path / "home", tmp_path / "tools"
    home.mkdir()
    tools.mkdir()
    for name in FAKES:
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/called\n')
        (tools / name).chmod(0o755)

    def run(*options, answers="", **variables):
        environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(home), **variables}
        command = [str(ROOT / "scripts" / "setup_gcp.sh"), *options]
        return subprocess.run(command, env=environment, input=answers, capture_output=True, text=True, timeout=60)

    run.home = home
    run.called = lambda: (tmp_path / "called").read_text() if (tmp_path / "called").exists() else ""
    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_prints_every_command_and_changes_nothing(setup):
    done = setup("--dry_run", HF_TOKEN=CANARY)
    assert done.returncode == 0, done.stderr
    assert list(setup.home.iterdir()) == []
    assert not {"sudo", "apt-get", "curl", "sha256sum"} & {line.split()[0] for line in setup.called().splitlines()}
    for part in ("apt-get install -y build-essential", "env create --name mimic-vqa", "mkdir -p", "add HF_TOKEN to"):
        assert part in done.stdout
    assert "canary" not in done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("--config configs/default_config.yaml")


def test_keys_end_in_one_file_and_nowhere_else(setup):
    options = ("--only", "secrets,folders")
    done = setup(*options, answers=f"{CANARY}\n\nmy-name\n")
    assert done.returncode == 0, done.stderr
    path = setup.home / ".env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parse(path.read_text()) == {
        "WANDB_API_KEY": CANARY,
        "PHYSIONET_USER": "my-name",
        "MIMIC_CXR_PATH": f"{setup.home}/dataset/mimic-cxr-jpg",
        "MIMIC_QA_PATH": f"{setup.home}/dataset/mimic-ext-cxr-qba",
    }
    assert "HF_TOKEN: left out" in done.stdout
    assert "canary" not in done.stdout + done.stderr
    assert [path] == [name for name, content in contents(setup.home).items() if b"canary" in content]
    assert (setup.home / "dataset" / "mimic-cxr-jpg").is_dir()
    before = contents(setup.home)
    again = setup(*options, answers="other\nother\nother\n")
    assert again.stdout.count("done before") == 2
    assert contents(setup.home) == before
    redone = setup(*options, "--redo", answers="late\n")
    assert "WANDB_API_KEY: kept" in redone.stdout
    assert parse(path.read_text())["WANDB_API_KEY"] == CANARY
    assert parse(path.read_text())["HF_TOKEN"] == "late"


def test_a_shell_reads_what_was_written(setup):
    setup("--only", "secrets", answers=f"{CANARY}\n")
    read = ["bash", "-c", 'source "$HOME/.env"; printf %s "$WANDB_API_KEY"']
    done = subprocess.run(read, env={"HOME": str(setup.home), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.stdout == CANARY


def test_an_existing_file_is_kept_and_closed(setup):
    path = setup.home / ".env"
    path.write_text("OTHER=1\nexport HF_TOKEN=mine")
    path.chmod(0o644)
    done = setup("--yes", "--only", "secrets", HF_TOKEN="theirs", WANDB_API_KEY=CANARY)
    assert "PHYSIONET_USER: left out" in done.stdout
    assert parse(path.read_text()) == {"OTHER": "1", "HF_TOKEN": "mine", "WANDB_API_KEY": CANARY}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not (setup.home / ".ssgvqa-setup" / "secrets").exists(), "a missing key may still follow"


def test_other_folders_and_another_environment_are_new_settings(setup, tmp_path):
    assert setup("--only", "folders", "--data_dir", str(tmp_path / "a b")).returncode == 0
    assert parse((setup.home / ".env").read_text())["MIMIC_CXR_PATH"] == f"{tmp_path}/a b/mimic-cxr-jpg"
    done = setup("--only", "folders", "--data_dir", str(tmp_path / "c"))
    assert "done before" not in done.stdout
    assert "MIMIC_CXR_PATH: kept" in done.stdout


def test_all_steps_in_order(setup):
    done = setup("--yes")
    assert done.returncode == 0, done.stderr
    called = [line.split()[0] for line in setup.called().splitlines()]
    first = "apt-get" if os.geteuid() == 0 else "sudo"
    assert called[0] == first
    assert "the NVIDIA driver works" in done.stdout
    assert "conda env create --name mimic-vqa --file environment.yml" in setup.called()
    assert "curl" not in called
    assert sorted(path.name for path in (setup.home / ".ssgvqa-setup").iterdir()) == [
        *("driver", "environment", "folders", "tools"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "magic"], "--only magic: the steps are tools driver"),
        (["--data_dir"], "--data_dir needs a value"),
        (["--frobnicate"], "unknown option --frobnicate"),
    ],
)
def test_wrong_options(setup, options, message):
    done = setup(*options)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(setup.home.iterdir()) == []


def test_a_key_with_control_characters_is_refused(setup):
    done = setup("--only", "secrets", answers="canary\x1b[A\n")
    assert done.returncode == 2
    assert "WANDB_API_KEY: a key has no control characters" in done.stderr
    assert "canary" not in done.stdout + done.stderr
