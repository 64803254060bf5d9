"""One process of a small training, for tests that start several or end them: `python -m tests.fault.worker JSON`.

The JSON has `index` and `output` (folders), `resume`, settings of `training` and `deepspeed`, `data`, `fault`: see `inject`, and
`runs_ahead`: settle steps as late as on a GPU.
Prints one JSON line at the end: losses by step, a digest of the weights, the trainer's state.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from pathlib import Path

import torch

from data.index import open_index
from tests.tiny_training import make_config, make_trainer
from training.processes import join
from utils import cli
from utils.interruption import interruption
from utils.utils import setup_logging


def inject(trainer, fault: dict) -> None:
    """Faults: {"kind", "step", "rank"}; a step is counted from 0 and named before it is taken.

    `nan`: the gradient of that step. `error`: a RuntimeError in that step. `oom`: more than `most` images, from that step
    on. `hang`, `signal`. `scale`: losses are multiplied by `scale` as in fp16, and the gradient of that step overflows.
    """
    kind, rank = fault.get("kind"), trainer.processes.rank
    if not kind or rank != fault.get("rank", rank):
        return
    engine, step = trainer.engine, fault.get("step", 0)
    backward, take_step, forward = engine.backward, trainer.take_step, engine.forward

    def at_step(window, seed):
        if trainer.state.step == step:
            if "note" in fault:
                Path(fault["note"]).touch()
            if kind == "hang":
                time.sleep(600)
            os.kill(os.getpid(), getattr(signal, fault.get("signal", "SIGKILL")))
        return take_step(window, seed)

    def poisoned(loss):
        backward(loss * math.nan if trainer.state.step == step else loss)

    def out_of_memory(*args, **kwargs):
        if kind == "error":
            if trainer.state.step == step:
                raise RuntimeError("made up")
        elif len(args[0]) > fault["most"] and trainer.state.step >= step:
            raise torch.OutOfMemoryError("made up")
        return forward(*args, **kwargs)

    if kind == "scale":
        engine._set_scale(fault["scale"])
    if kind in ("nan", "scale"):
        engine.backward = poisoned
    elif kind in ("oom", "error"):
        engine.forward = out_of_memory
    else:
        trainer.take_step = at_step


def main(argv: list[str]) -> int:
    torch.set_num_threads(1)
    job = json.loads(argv[0])
    interruption.install()
    processes = join()
    setup_logging(rank=processes.rank)
    config = make_config(job["output"], **job.get("training", {}))
    for section in ("data", "model", "deepspeed"):
        for name, value in job.get(section, {}).items():
            setattr(getattr(config, section), name, value)
    trainer = make_trainer(open_index(job["index"]), config, job.get("resume", "never"), processes)
    inject(trainer, job.get("fault", {}))
    trainer.engine.runs_ahead = job.get("runs_ahead", trainer.engine.runs_ahead)
    trainer.fit()
    with trainer.engine.gathered():
        weights = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    losses = {step: values["train/loss"] for step, values in trainer.sinks._sinks[0].lines if "train/loss" in values}
    state = trainer.state
    report = {
        "rank": processes.rank,
        "kind": trainer.engine.kind,
        "losses": losses,
        "weights": digest.hexdigest(),
        "step": state.step,
        "skipped": state.skipped,
        "micro_batch": state.micro_batch,
        "best": state.best_score,
        "scale": getattr(trainer.engine, "_scale", None),
        "questions": state.questions,
    }
    print("REPORT " + json.dumps(report), flush=True)
    if "save_weights" in job and processes.is_main:
        torch.save(weights, job["save_weights"])
    processes.close()
    return 0


if __name__ == "__main__":
    cli.run(main)
