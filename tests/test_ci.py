""".ci/run: packages are installed where they are missing, shell scripts are checked, and every failure counts."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("bash", "env", "dirname", "find", "xargs", "cat", "sh", "true")


@pytest.fixture
def ci(tmp_path):
    """Runs .ci/run in a folder whose tests, linter and system tools only take notes; `tools` and `failing` are names."""
    bin_, log = tmp_path / "bin", tmp_path / "log"
    for path in (bin_, tmp_path / ".ci", tmp_path / "scripts"):
        path.mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "scripts" / "_env.sh").write_text("install_requirements() { :; }\n")

    def write(path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(tools=("shellcheck", "chromium", "apt-get", "sudo"), failing=(), user=0):
        for tool in TOOLS:
            (bin_ / tool).symlink_to(shutil.which(tool))
        for tool in (*tools, "python", "test.sh"):
            path = tmp_path / "scripts" / tool if tool == "test.sh" else bin_ / tool
            code = int(tool in failing)
            then = '[ "$1" = -n ] && shift; exec "$@"' if tool == "sudo" and not code else f"exit {code}"
            write(path, f'echo {tool} "$@" >>{log}\n{then}')
        write(bin_ / "id", f"echo {user}")
        done = subprocess.run(
            [str(tmp_path / ".ci" / "run")], env={"PATH": str(bin_)}, capture_output=True, text=True, cwd=tmp_path
        )
        return done, log.read_text().splitlines()

    return run


def test_with_everything_at_hand_nothing_is_installed(ci):
    done, log = ci()
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in log] == ["test.sh", "shellcheck", "python", "python"]
    assert log[0] == "test.sh --slow"
    checked = log[1].split()[1:]
    assert sorted(checked) == sorted(["-x", "./.ci/run", "./scripts/_env.sh", "./scripts/test.sh"])


def test_missing_packages_are_installed(ci):
    done, log = ci(tools=("shellcheck", "apt-get"))
    assert "apt-get install -y -qq --no-install-recommends chromium" in log
    assert done.returncode == 0


def test_another_user_needs_sudo(ci):
    _, log = ci(tools=("chromium", "apt-get", "sudo"), user=1000)
    assert "sudo -n apt-get update -qq" in log
    assert "apt-get install -y -qq --no-install-recommends shellcheck" in log


@pytest.mark.parametrize(
    ("tools", "failing", "user", "message"),
    [
        (("shellcheck",), (), 0, "error: chromium: not installed, and there is no apt-get"),
        (("shellcheck", "apt-get", "sudo"), ("sudo",), 1000, "sudo needs a password: sudo apt-get install chromium"),
        (("shellcheck", "apt-get"), ("apt-get",), 0, "error: chromium: apt-get could not install them"),
    ],
)
def test_packages_that_cannot_be_installed_fail_with_one_line_and_the_tests_run_all_the_same(
    ci, tools, failing, user, message
):
    done, log = ci(tools, failing, user)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[1:] == ["failed: Debian packages"]
    assert "test.sh --slow" in log


@pytest.mark.parametrize(
    ("tool", "name"), [("shellcheck", "shellcheck"), ("test.sh", "tests"), ("python", "ruff check")]
)
def test_each_failure_counts(ci, tool, name):
    done, log = ci(failing=(tool,))
    assert done.returncode == 1
    assert f"failed: {name}" in done.stderr.splitlines()
    assert len(log) == 4  # the others run all the same


def test_shell_scripts_have_no_findings():
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    scripts = [*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "scripts").rglob("*.sbatch"), ROOT / ".ci" / "run"]
    done = subprocess.run(["shellcheck", "-x", *map(str, scripts)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0
