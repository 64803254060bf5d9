"""An index build that is killed at any moment and started again ends in the index of one that nothing happened to."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from configs.mimic_cxr_config import Config, DataConfig, to_yaml
from tests.small_release import Studies, contents, write_release, write_tables

STUDIES: Studies = {
    50000000 + n: (10000000 + n // 2, ("train", "train", "validate", "test")[n // 2 % 4], ["AP", "PA"][: 1 + n % 2])
    for n in range(60)
}
KILLS = 10
PROGRAM = """
import sys, time
from configs.mimic_cxr_config import load_config
from data.index import build, part, prepare_index
build.STUDIES_PER_PART = 3
read = part._read_study
part._read_study = lambda *arguments: (time.sleep(0.01), read(*arguments))[1]
prepare_index(load_config(sys.argv[1], []).config, int(sys.argv[2]))
"""

if not hasattr(os, "killpg"):
    pytest.skip("this system has no process groups", allow_module_level=True)


def start(root: Path, settings: Path, workers: int) -> subprocess.Popen:
    path = root / "build.py"
    # a file, guarded: worker processes import it again
    lines = "".join(f"    {line}\n" for line in PROGRAM.strip().splitlines())
    path.write_text(f"import sys\nsys.path.insert(0, {os.getcwd()!r})\nif __name__ == '__main__':\n{lines}")
    command = [sys.executable, str(path), str(settings), str(workers)]
    with (root / "said").open("w") as said:
        return subprocess.Popen(command, stderr=said, cwd=root)


def finish(root: Path, settings: Path, workers: int) -> float:
    started = time.monotonic()
    assert start(root, settings, workers).wait(120) == 0
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "grown"), [(1, False), (2, True)])
def test_killed_ten_times_it_ends_the_same(tmp_path, workers, grown):
    data = write_release(tmp_path, STUDIES)
    index, settings = Path(data.index_dir), write_settings(tmp_path / "settings.yaml", data)
    if grown:  # an update is killed
        write_tables(tmp_path, dict(list(STUDIES.items())[:30]))
        finish(tmp_path, settings, workers)
        write_tables(tmp_path, STUDIES)
    before = contents(index) if grown else None
    data.index_dir = str(tmp_path / "undisturbed")
    seconds = finish(tmp_path, write_settings(tmp_path / "undisturbed.yaml", data), workers)
    whole = contents(tmp_path / "undisturbed")
    rng, kills = random.Random(workers), 0
    while kills < KILLS:
        child = start(tmp_path, settings, workers)
        try:
            child.wait(rng.uniform(0.2, 0.95) * seconds)
        except subprocess.TimeoutExpired:
            family = psutil.Process(child.pid).children(recursive=True)
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
            _, alive = psutil.wait_procs(family, 10)
            assert not alive, "worker processes go with their parent"
            assert not index.exists() or contents(index) in (before, whole), "whole or not at all"
        else:
            assert child.returncode == 0, (tmp_path / "said").read_text()
            assert contents(index) == whole
            shutil.rmtree(index)  # the next has something to do again
    finish(tmp_path, settings, workers)
    assert contents(index) == whole
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".") or p.name.endswith(".partial")]


def write_settings(path: Path, data: DataConfig) -> Path:
    path.write_text(to_yaml(Config(data=data)))
    return path
