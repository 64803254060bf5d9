"""From options, machine and environment to the command that is started, and the numbers that training will use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import launch
from scripts.launch import launch_plan
from utils.errors import ConfigError
from utils.hardware_utils import simulate
from utils.launch import read_hostfile

L4 = simulate("4x NVIDIA L4")
ONE = simulate("NVIDIA L4")
CPU = simulate("cpu", 8)
TRAIN = "train_mimic_cxr.py --config configs/default_config.yaml --resume auto"
SRUN = {
    "SLURM_JOB_ID": "40012",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
VERTEX = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "cmle-training-workerpool0-0", "MASTER_PORT": "3333"}


def command(text, hardware=L4, environ=None):
    return " ".join(launch_plan(text.split(), hardware, environ or {}).command)


def plan(text, hardware=L4, environ=None):
    """The lines of the plan as a dictionary."""
    lines = launch_plan(text.split(), hardware, environ or {}).text.split("LAUNCH PLAN")[1].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value}


# Commands


@pytest.mark.parametrize(
    ("options", "hardware", "expected"),
    [
        ("", CPU, f"python {TRAIN}"),
        ("", ONE, f"python {TRAIN}"),
        ("--num_gpus 1", L4, f"python {TRAIN}"),
        ("", L4, f"python -m utils.torchrun --standalone --nproc_per_node 4 {TRAIN}"),
        (
            "--num_gpus 2 --resume never",
            L4,
            f"python -m utils.torchrun --standalone --nproc_per_node 2 {TRAIN} --resume never",
        ),
        ("--num_gpus 2", CPU, f"python -m utils.torchrun --standalone --nproc_per_node 2 {TRAIN}"),
        ("--master_port 4000", L4, f"python -m utils.torchrun --master_port 4000 --nproc_per_node 4 {TRAIN}"),
        (
            "--max_restarts 3",
            ONE,
            f"python -m utils.torchrun --standalone --nproc_per_node 1 --max_restarts 3 {TRAIN}",
        ),
        (
            "--nnodes 2 --node_rank 1 --master_addr gpu1",
            ONE,
            "python -m utils.torchrun --nnodes 2 --node_rank 1 --master_addr gpu1 --master_port 29500 --nproc_per_node 1 "
            + TRAIN,
        ),
        (
            "--deepspeed",
            L4,
            f"deepspeed --no_local_rank --num_gpus 4 {TRAIN} --set deepspeed.enabled=true",
        ),
        ("--no_auto --debug --epochs 3", ONE, f"python {TRAIN} --no_auto --debug --epochs 3"),
    ],
)
def test_commands(options, hardware, expected):
    assert command(options, hardware) == expected


@pytest.mark.parametrize(
    ("environ", "meeting"),
    [
        (SRUN, "--nnodes 2 --node_rank 1 --master_addr gpu07 --master_port 15012"),
        (VERTEX, "--nnodes 2 --node_rank 1 --master_addr cmle-training-workerpool0-0 --master_port 3333"),
    ],
)
def test_nodes_that_the_environment_names(environ, meeting):
    assert command("", L4, environ) == f"python -m utils.torchrun {meeting} --nproc_per_node 4 {TRAIN}"
    assert "--master_port 4000" in command("--master_port 4000", L4, environ)
    assert command("--nnodes 1", ONE, environ) == f"python {TRAIN}"


def test_hostfile(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# two machines\nworker-0 slots=4\n\nworker-1 slots=4\n")
    assert read_hostfile(str(path)) == {"worker-0": 4, "worker-1": 4}
    expected = f"deepspeed --no_local_rank --hostfile {path}"
    assert command(f"--hostfile {path}") == f"{expected} {TRAIN} --set deepspeed.enabled=true"
    assert command(f"--hostfile {path} --num_gpus 2 --master_port 4000").startswith(
        f"{expected} --num_gpus 2 --master_port 4000 train_mimic_cxr.py"
    )
    found = plan(f"--hostfile {path}")
    assert found["Processes"] == "4 per node x 2 node(s) = 8"
    assert (found["Grad accumulation"], found["Effective batch"], found["Launcher"]) == ("2", "256", "DeepSpeed")


def test_hosts_that_differ_share_the_smaller_number(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("a slots=2\nb slots=4\n")
    for options in ("", " --num_gpus 3"):
        with pytest.raises(ConfigError, match="slots"):
            command(f"--hostfile {path}{options}")
    assert plan(f"--hostfile {path} --num_gpus 2")["Processes"] == "2 per node x 2 node(s) = 4"


@pytest.mark.parametrize("text", ["", "# nothing", "worker-0", "worker-0 slots=x", "a slots=4\na slots=4", "a slots=0"])
def test_a_bad_hostfile_is_named(tmp_path, text):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(ConfigError, match="hosts"):
        read_hostfile(str(path))


@pytest.mark.parametrize(
    ("options", "hardware", "environ", "named"),
    [
        ("--num_gpus 5", L4, {}, r"--num_gpus 5: PyTorch can use 4 GPU\(s\)"),
        ("--num_gpus 0", L4, {}, "--num_gpus 0: at least 1"),
        ("--nnodes 2 --node_rank 0", L4, {}, "--master_addr HOST"),
        ("--nnodes 2 --master_addr a", L4, {}, "--node_rank K"),
        ("--nnodes 2 --master_addr a --node_rank 2", L4, {}, "--node_rank 2: from 0 to 1"),
        ("--master_addr a", L4, {}, "go with --nnodes"),
        ("--deepspeed", L4, SRUN, "needs --hostfile"),
        ("--hostfile nowhere", L4, {}, "--hostfile nowhere: cannot be read"),
        ("--hostfile x --torchrun", L4, {}, "leave out --torchrun"),
        ("--hostfile x --nnodes 2", L4, {}, "leave out --nnodes"),
        ("--deepspeed --max_restarts 1", L4, {}, "--max_restarts is for torchrun"),
        ("--max_restarts -1", L4, {}, "--max_restarts -1"),
        ("--master_port 0", L4, {}, "--master_port 0"),
        ("--set training.lr=3", L4, {}, "training.lr"),
        ("--config nowhere.yaml", L4, {}, "nowhere.yaml"),
        ("", L4, {**SRUN, "SLURM_STEP_NUM_TASKS": "8"}, "--ntasks-per-node=1"),
    ],
)
def test_what_cannot_be_started_is_one_line(options, hardware, environ, named):
    with pytest.raises(ConfigError, match=named) as error:
        launch_plan(options.split(), hardware, environ)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", ["--num_gpu 3", "--epoch x", "--deepspeed --torchrun"])
def test_what_neither_knows_ends_before_anything_is_started(options, capsys):
    with pytest.raises(SystemExit) as stop:
        launch_plan(options.split(), L4, {})
    assert stop.value.code == 2


# Numbers


def test_the_promised_plan():
    found = plan("--simulate x --dry_run")
    assert found == {
        "Batch per GPU": "16",
        "Grad accumulation": "4",
        "Effective batch": "256",
        "DeepSpeed": "ZeRO-2",
        "Precision": "bf16",
        "Processes": "4 per node x 1 node(s) = 4",
        "Engine": "DeepSpeed ZeRO-2",
        "Launcher": "torchrun",
        "dry run of the launcher": "nothing was started",
    }


@pytest.mark.parametrize(
    ("options", "hardware", "expected"),
    [
        ("--num_gpus 2", L4, ("16", "8", "256", "DeepSpeed ZeRO-2")),
        ("--nnodes 2 --node_rank 0 --master_addr a", L4, ("16", "2", "256", "DeepSpeed ZeRO-2")),
        ("--nnodes 2 --node_rank 0 --master_addr a", ONE, ("16", "8", "256", "DeepSpeed ZeRO-2")),
        ("--batch_size 8", L4, ("8", "8", "256", "DeepSpeed ZeRO-2")),
        ("--set training.batch_size_per_gpu=8 --num_gpus 1", L4, ("8", "32", "256", "one process")),
        ("--set training.gradient_accumulation_steps=1", L4, ("16", "1", "64", "DeepSpeed ZeRO-2")),
        ("--set training.reference_batch_size=64", L4, ("16", "1", "64", "DeepSpeed ZeRO-2")),
        ("--set deepspeed.enabled=false", L4, ("16", "4", "256", "plain data parallelism")),
        ("--set deepspeed.stage=0", L4, ("16", "4", "256", "plain data parallelism")),
        ("--set deepspeed.stage=1", L4, ("16", "4", "256", "DeepSpeed ZeRO-1")),
        ("--no_auto", L4, ("16", "4", "256", "DeepSpeed ZeRO-2")),
        ("--no_auto --num_gpus 2", L4, ("16", "4", "128", "DeepSpeed ZeRO-2")),
    ],
)
def test_plans_of_gpus(options, hardware, expected):
    found = plan(options, hardware)
    names = ("Batch per GPU", "Grad accumulation", "Effective batch", "Engine")
    assert tuple(found[name] for name in names) == expected


def test_processes_on_the_cpu():
    found = plan("--num_gpus 4", CPU)
    assert (found["Batch per process"], found["Grad accumulation"], found["Effective batch"]) == ("4", "16", "256")
    assert found["Engine"] == "plain data parallelism"
    started = launch_plan(["--num_gpus", "4"], CPU, {})
    assert started.environment == {"OMP_NUM_THREADS": "2"}
    assert "\n  OMP_NUM_THREADS=2 python -m utils.torchrun" in started.text
    assert "share the CPU over gloo" in started.text
    assert launch_plan(["--num_gpus", "4"], CPU, {"OMP_NUM_THREADS": "3"}).environment == {}


@given(st.sampled_from(["L4", "T4", "A100", "H200"]), st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
def test_the_effective_batch_is_near_the_reference_on_any_layout(card, gpus, used, nodes):
    options = f"--num_gpus {min(gpus, used)} --nnodes {nodes} --node_rank 0 --master_addr a"
    found = plan(options, simulate(f"{gpus}x {card}"))
    world = min(gpus, used) * nodes
    assert found["Processes"].split(" (")[0].endswith(f"= {world}")
    assert abs(int(found["Effective batch"]) - 256) <= int(found["Batch per GPU"]) * world / 2


def test_the_box_is_that_of_the_gpus_in_use():
    text = launch_plan(["--num_gpus", "2"], L4, {}).text
    assert "GPUs:              2 x NVIDIA L4" in text
    assert "Note: 2 of 4 GPUs are used" in text


def test_debug_sets_the_variables_that_the_user_has_not_set():
    found = launch_plan(["--debug"], L4, {"NCCL_DEBUG": "WARN"})
    assert found.environment == {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"}
    assert "--debug" in found.command


def test_the_command_is_quoted_for_a_shell():
    text = launch_plan(["--set", "wandb.name=two words", "--output_dir", "a b"], L4, {}).text
    assert "--set 'wandb.name=two words' --output_dir 'a b'\n" in text + "\n"


def test_print_config_shows_the_settings_of_the_planned_run():
    found = launch_plan(["--print_config"], L4, {})
    assert not found.starts
    line = next(line for line in found.text.splitlines() if "gradient_accumulation_steps" in line)
    assert line.split() == ["gradient_accumulation_steps:", "4", "#", "hardware"]


# Starting


def test_a_simulated_machine_is_not_started():
    with pytest.raises(ConfigError, match="add --dry_run"):
        launch.main(["--simulate", "L4"])
    with pytest.raises(ConfigError, match="--cpus goes with"):
        launch.main(["--cpus", "4", "--dry_run"])


def test_the_plan_is_started_with_its_variables(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(launch, "detect", lambda: L4)
    monkeypatch.setattr(launch.os, "execvpe", lambda *words: started.append(words))
    launch.main(["--dry_run"])
    assert not started
    launch.main(["--debug"])
    program, words, environ = started[0]
    assert (program, words[:3]) == ("python", ["python", "-m", "utils.torchrun"])
    assert environ["TORCH_DISTRIBUTED_DEBUG"] == "DETAIL"
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="deepspeed is not in this environment"):
        launch.main(["--deepspeed"])
