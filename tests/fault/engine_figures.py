"""The figures of docs/RELIABILITY.md for several processes: `python -m tests.fault.engine_figures`. Takes two minutes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from tests.fault.launch import Launcher
from tests.fault.test_engines import ENGINES, STEPS, keep_until, without_dropout
from tests.tiny_training import make_index


def main() -> None:
    folder, launcher = Path(tempfile.mkdtemp()), Launcher()
    make_index(folder)

    def job(processes: int, engine: str, output: str, **more) -> dict:
        size = {"batch_size_per_gpu": 4 // processes, "gradient_accumulation_steps": 2}
        budget = {"max_steps": STEPS, "num_epochs": 100, "eval_steps": 25, "save_steps": 10, "save_total_limit": 9}
        settings = size | budget | more.pop("training", {})
        common = {"index": str(folder / "index"), "output": str(folder / output), "model": without_dropout()}
        return common | {"training": settings, "deepspeed": ENGINES[engine]} | more

    one = launcher.run(job(1, "torch", "one"))
    print("| engine | largest relative difference to one process | resumed at step 10 | SIGKILL of one | hang of one |")
    print("|---|---|---|---|---|")
    for engine in ENGINES:
        two = launcher.run(job(2, engine, engine), 2)
        difference = max(abs(two.losses[step] / loss - 1) for step, loss in one.losses.items())
        keep_until(folder / engine, 10)
        again = launcher.run(job(2, engine, engine, resume="auto"), 2)
        same = again.reports[0]["weights"] == two.reports[0]["weights"] and again.losses.items() <= two.losses.items()
        ends = [seconds_until_all_end(launcher, job, engine, kind) for kind in ("signal", "hang")]
        identical = "bit-identical" if same else "NOT identical"
        print(
            f"| {engine} | {difference:.1e} over {STEPS} steps | {identical} | {ends[0]:.1f} s | {ends[1]:.1f} s |",
            flush=True,
        )
    launcher.close()
    shutil.rmtree(folder)


def seconds_until_all_end(launcher: Launcher, job, engine: str, kind: str) -> float:
    """From the fault of process 1 in step 5, with a time-out of 5 s, to the end of the last process."""
    fault = {"kind": kind, "step": 4, "rank": 1, "note": str(Path(tempfile.gettempdir()) / f"fault-{engine}-{kind}")}
    output = f"{engine}-{kind}"
    launcher.run(job(2, engine, output, training={"hang_timeout": 5}, fault=fault), 2)
    return time.time() - Path(fault["note"]).stat().st_mtime


if __name__ == "__main__":
    main()
