"""The commands of the documents run as they are written, on a small look-alike release (tests/doc_blocks.py)."""

import shutil

import pytest

from tests.doc_blocks import Run, blocks, parse_run, shell_blocks
from tests.user_checkout import MAKERS, Checkout

GPUS = "needs several GPUs"
MACHINES = "needs several machines"
TRAINED = "ends with 1 unless the model has learned; it runs small in tests/test_explain_cli.py"
MEASURED = "measures at full size, for minutes to hours; the same code runs small in "
SERVES = "serves until it is stopped; tests/test_page*.py open it"
SERVICE = "needs the service; with a local one in its place: "
NOT_RUN = {
    ("CONTRIBUTING.md", "./scripts/setup.sh"): "runs these tests",
    (
        "CONTRIBUTING.md",
        "python train_mimic_cxr.py --config own_config.yaml",
    ): "tests/test_extending.py runs it after the change",
    ("README.md", "./scripts/page.sh"): SERVES,
    ("docs/PAGE.md", "./scripts/quickstart.sh"): SERVES,
    ("docs/PAGE.md", "./scripts/page.sh"): SERVES,
    (
        "docs/EXPORT.md",
        "python scripts/export.py checkpoints",
    ): "README.md's block exports; with an index: tests/test_export_models.py",
    ("docs/EXPORT.md", "python scripts/export.py quickstart"): MEASURED + "tests/test_export.py",
    ("docs/HUB.md", "python scripts/hub.py push"): SERVICE + "tests/test_hub*.py",
    ("docs/HUB.md", "python train_mimic_cxr.py"): SERVICE + "tests/test_hub*.py",
    ("docs/TRACKING.md", "echo"): SERVICE + "tests/test_wandb*.py",
    ("docs/TRACKING.md", "python scripts/track.py replay"): SERVICE + "tests/test_wandb_replay.py",
    ("docs/TRACKING.md", "wandb sweep"): SERVICE + "tests/test_wandb_agent.py",
    ("docs/ASKING.md", "python scripts/fit_frontal_check.py"): "reads sets of real films",
    ("docs/ASKING.md", "python scripts/check_routing.py"): "reads the real VQA-RAD, with a model that has learned",
    ("docs/EXPLANATIONS.md", "python examples/explain.py --sanity --index data_cache"): TRAINED,
    ("docs/EXPLANATIONS.md", "python examples/explain.py --sanity --index quickstart"): TRAINED,
    ("docs/MULTI_GPU_TRAINING.md", "CUDA_VISIBLE_DEVICES=0 python"): GPUS,
    ("docs/MULTI_GPU_TRAINING.md", "./scripts/launch_distributed_training.sh --nnodes 2"): MACHINES,
    ("docs/MULTI_GPU_TRAINING.md", "./scripts/launch_distributed_training.sh --hostfile hosts"): MACHINES,
    ("docs/MULTI_GPU_TRAINING.md", "sbatch --nodes=2"): MACHINES,
    ("docs/MULTI_GPU_TRAINING.md", "./scripts/setup_gcp.sh --data_dir"): "changes the machine: drivers, conda",
    ("docs/PERFORMANCE.md", "python scripts/benchmark.py train --images 8"): MEASURED + "tests/test_benchmark*.py",
    ("docs/PERFORMANCE.md", "python scripts/benchmark.py train --device cuda"): "needs a GPU",
    ("docs/RELIABILITY.md", "python -m tests.fault.engine_figures"): MEASURED + "tests/fault/test_engines.py",
    ("docs/RELIABILITY.md", "./scripts/test.sh tests/test_gpu.py"): "needs a GPU",
    ("docs/RELIABILITY.md", "python -m tests.fault.figures"): MEASURED + "tests/fault",
    ("examples/README.md", "pip install"): "installs Jupyter and opens a browser",
}
"""Document and how the block begins: why it is not run"""

BLOCKS = shell_blocks()
RUN = [block for block in BLOCKS if block.run]


def reasons(block) -> list[tuple[str, str]]:
    return [key for key in NOT_RUN if key[0] == block.document and block.first.startswith(key[1])]


def test_every_command_block_is_run_or_has_a_reason():
    assert [block.name for block in BLOCKS if not block.run and len(reasons(block)) != 1] == []
    assert [block.name for block in RUN if reasons(block)] == []
    used = {key for block in BLOCKS for key in reasons(block)}
    assert set(NOT_RUN) - used == set()  # a reason without its block is out of date
    assert len(RUN) >= 18


def test_what_blocks_need_can_be_made():
    assert {name for block in RUN for name in block.run.needs} <= set(MAKERS)


def test_comments_are_read_strictly():
    text = "<!-- run -->\n```bash\na\n```\n\n```bash\nb # c\n```\n<!-- run: with x, y; writes z -->\n```bash\nc  # d\n```\n"
    found = list(blocks(text, "d.md"))
    assert [block.run for block in found] == [Run(), None, Run(("x", "y"), ("z",))]
    assert [(block.name, block.first) for block in found] == [("d.md:2", "a"), ("d.md:6", "b"), ("d.md:10", "c")]
    for wrong in ("run: x", "run with x", "run: with", "run: with a; with b", "runs", "run: writes a; slowly b"):
        with pytest.raises(ValueError, match="run"):
            parse_run(wrong)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("user"))


@pytest.mark.slow
def test_a_failing_command_is_noticed(checkout, tmp_path):
    folder = checkout.with_things(tmp_path / "checkout", ())
    with pytest.raises(AssertionError, match="exit code 2"):
        checkout.bash(folder, "python setup_data.py --no_such_option\ntrue\n")


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_commands_run_as_they_are_written(block, checkout, tmp_path):
    folder = checkout.with_things(tmp_path / "checkout", block.run.needs)
    assert [path for path in block.run.writes if (folder / path).exists()] == []
    checkout.bash(folder, block.text)
    assert [path for path in block.run.writes if not (folder / path).exists()] == []
    shutil.rmtree(folder)  # each has its own release
