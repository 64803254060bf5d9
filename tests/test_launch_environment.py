"""Who this process is, from the variables that real launchers and schedulers leave."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import ConfigError
from utils.launch_environment import Nodes, Placement, first_host, nodes, placement, slurm_tasks

SINGLE = Placement()
SRUN = {
    "SLURM_JOB_ID": "40012",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
BATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "ENVIRONMENT": "BATCH",
}
TORCHRUN = {
    "RANK": "13",
    "LOCAL_RANK": "5",
    "WORLD_SIZE": "64",
    "LOCAL_WORLD_SIZE": "8",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
DEEPSPEED = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_SIZE": "2",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29501",
}
VERTEX = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "cmle-training-workerpool0-0", "MASTER_PORT": "3333"}
SLURM_OF_LAUNCHERS = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "1", "SLURM_STEP_ID": "0"}


# Node lists

NODELISTS = {
    "127.0.0.1": "127.0.0.1",
    "alpha,beta,gamma": "alpha",
    "alpha beta gamma": "alpha",
    "1.2.3.[100-110]": "1.2.3.100",
    "1.2.3.[089, 100-110]": "1.2.3.089",
    "host[22]": "host22",
    "host[5-9,1]": "host5",
    "alpha, host[5-9], gamma": "alpha",
    "alpha[3,1], beta": "alpha3",
    "compute-permanent-node-[583,752,801,869]": "compute-permanent-node-583",
    "rack[2-3]-gpu[01-16]": "rack2-gpu01",
}


@pytest.mark.parametrize("nodelist", NODELISTS)
def test_first_host(nodelist):
    assert first_host(nodelist) == NODELISTS[nodelist]


@pytest.mark.parametrize("nodelist", ["", " , ", "host[", "host[]", "host]3", "host[1-2"])
def test_a_broken_node_list_is_named(nodelist):
    with pytest.raises(ConfigError, match="node list .*MASTER_ADDR"):
        first_host(nodelist)


names = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z]{1,4})?(\.[a-z]{1,3})?", fullmatch=True)
numbers = st.from_regex(r"[0-9]{1,4}", fullmatch=True)
groups = st.lists(numbers | st.tuples(numbers, numbers).map("-".join), min_size=1, max_size=4)


@given(
    names,
    st.none() | groups,
    st.sampled_from(["", "-ib"]),
    st.lists(names, max_size=3),
    st.sampled_from([",", ", ", " "]),
)
def test_first_host_of_any_list(name, group, suffix, others, separator):
    bracket = "" if group is None else f"[{','.join(group)}]"
    expected = name + ("" if group is None else group[0].split("-")[0]) + suffix
    assert first_host(separator.join([name + bracket + suffix, *others])) == expected


@given(st.text(max_size=30))
def test_any_text_gives_a_host_or_a_config_error(text):
    try:
        host = first_host(text)
    except ConfigError:
        return
    assert host
    assert not set(host) & set("[], ")


# SLURM


def test_srun():
    assert placement(SRUN) == Placement(5, 1, 8, 4, 1, "gpu07", 15000 + 40012 % 20000, "SLURM")


def test_srun_with_the_variables_of_older_releases():
    old = {
        "SLURM_NODELIST": "1.1.1.1, 1.1.1.2",
        "SLURM_JOB_ID": "0001234",
        "SLURM_NTASKS": "20",
        "SLURM_NTASKS_PER_NODE": "10",
        "SLURM_LOCALID": "2",
        "SLURM_PROCID": "1",
        "SLURM_NODEID": "3",
        "SLURM_JOB_NAME": "JOB",
    }
    assert placement(old) == Placement(1, 2, 20, 10, 3, "1.1.1.1", 16234, "SLURM")


@pytest.mark.parametrize(
    ("environ", "tasks"),
    [
        ({"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"}, 8),
        ({"SLURM_TASKS_PER_NODE": "24(x2)"}, 48),
        ({"SLURM_TASKS_PER_NODE": "24(x2),3"}, 51),
        ({"SLURM_NPROCS": "6"}, 6),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "8"}, 2),
        ({}, 1),
    ],
)
def test_slurm_tasks(environ, tasks):
    assert slurm_tasks(environ) == tasks


def test_a_task_without_slurm_ntasks():
    environ = {"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "6", "SLURM_LOCALID": "2"}
    assert placement(environ) == Placement(6, 2, 8, 4, 1, source="SLURM")


def test_uneven_nodes():
    environ = {**SRUN, "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_TASKS_PER_NODE": "4,2"}
    assert placement(environ).local_world_size == 2


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "1"},
        {**SRUN, "SLURM_JOB_NAME": "bash"},
        {**SRUN, "SLURM_JOB_NAME": "interactive"},
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        BATCH,
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},
        {"SLURM_NODELIST": "compute-permanent-node-[583,752,801,869]"},
        {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.8"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "workerpool0-0"},
        {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": ""},
    ],
)
def test_single_processes(environ):
    assert placement(environ) == SINGLE


def test_the_head_address():
    assert placement({**SRUN, "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.8"}).master_addr == "10.0.0.8"
    batch = {"SLURM_SUBMIT_HOST": "login3", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.8", "ENVIRONMENT": "BATCH"}
    assert placement({**SRUN, **batch}).master_addr == "10.0.0.8"
    given = {"MASTER_ADDR": "gpu99", "MASTER_PORT": "1234"}
    assert placement({**SRUN, **batch, **given}).master_addr == "gpu99"
    assert placement({**SRUN, **batch, **given}).master_port == 1234


def test_srun_on_a_login_node_is_not_the_head():
    login = {"SLURM_SUBMIT_HOST": "login3", "SLURM_LAUNCH_NODE_IPADDR": "192.168.0.3"}
    assert placement({**SRUN, **login}).master_addr == "gpu07"


# torchrun, DeepSpeed, by hand, mpirun


def test_torchrun_under_srun():
    assert placement({**SLURM_OF_LAUNCHERS, **TORCHRUN}) == Placement(13, 5, 64, 8, 1, "node1", 29500, "torchrun")


def test_deepspeed_under_slurm():
    slurm = {**BATCH, "SLURM_NTASKS": "1"}
    assert placement({**slurm, **DEEPSPEED}) == Placement(3, 1, 4, 2, 1, "10.0.0.1", 29501, "DeepSpeed")


def test_ranks_by_hand_under_srun_get_the_local_rank_of_slurm():
    found = placement({**SRUN, "RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "gpu07", "MASTER_PORT": "12345"})
    assert found == Placement(5, 1, 8, 4, 1, "gpu07", 12345, "RANK and WORLD_SIZE")
    assert placement({"RANK": "41", "WORLD_SIZE": "80", "SLURM_LOCALID": "1"}).local_rank == 1


def test_a_local_rank_of_another_process_is_not_used():
    with pytest.raises(ConfigError, match="LOCAL_RANK is not set"):
        placement({**SRUN, "RANK": "1", "WORLD_SIZE": "2"})


def test_mpirun():
    environ = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
    assert placement(environ) == Placement(3, 1, 4, 2, 1, source="OpenMPI")
    assert replace(placement({**SRUN, **environ}), master_addr="", master_port=0).source == "OpenMPI"
    with pytest.raises(ConfigError, match="MASTER_ADDR is not set"):
        placement({**environ, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        (VERTEX, "LOCAL_RANK is not set.*launch_distributed_training.sh"),
        ({"SLURM_TASKS_PER_NODE": "24(x2)", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}, "RANK is not set"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE is not set"),
        ({"LOCAL_RANK": "0"}, "RANK is not set"),
        ({**TORCHRUN, "RANK": "64"}, "RANK=64 is not below WORLD_SIZE=64"),
        ({**TORCHRUN, "LOCAL_RANK": "8"}, "LOCAL_RANK=8 is not below"),
        ({**TORCHRUN, "RANK": "-1"}, 'RANK="-1"'),
        ({**TORCHRUN, "WORLD_SIZE": "eight"}, 'WORLD_SIZE="eight"'),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "MASTER_PORT=70000"),
        ({**SRUN, "SLURM_PROCID": "8"}, "SLURM_PROCID=8"),
        ({**SRUN, "SLURM_LOCALID": ""}, "SLURM_LOCALID is not set"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(y2)"}, "SLURM_STEP_TASKS_PER_NODE"),
        ({"OMPI_COMM_WORLD_RANK": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, "RANK=4"),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_the_variable(environ, named):
    with pytest.raises(ConfigError, match=named) as error:
        placement(environ)
    assert "\n" not in str(error.value)


@given(
    st.dictionaries(
        st.sampled_from(sorted({*SRUN, *TORCHRUN, *DEEPSPEED})), st.sampled_from(["", "0", "1", "7", "x", "4(x2)"])
    )
)
def test_any_environment_gives_a_sound_placement_or_a_config_error(environ):
    try:
        found = placement(environ)
    except ConfigError:
        return
    assert 0 <= found.rank < found.world_size
    assert 0 <= found.local_rank < found.local_world_size


# Nodes, for a launcher


def test_nodes_of_vertex_ai():
    assert nodes(VERTEX) == Nodes(2, 1, "cmle-training-workerpool0-0", 3333, "node-wise RANK and WORLD_SIZE")


def test_nodes_of_slurm():
    step = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    assert nodes(step) == Nodes(2, 1, "gpu07", 15012, "SLURM")


def test_one_node():
    assert nodes({}) == Nodes()
    assert nodes(BATCH) == Nodes(master_port=15007, source="SLURM")
    assert nodes({**SRUN, "SLURM_JOB_NAME": "bash"}) == Nodes()


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        (SRUN, "8 tasks on 2 node.*--ntasks-per-node=1"),
        ({**BATCH, "SLURM_NNODES": "2"}, "2 nodes but the launcher runs on one"),
        (TORCHRUN, "LOCAL_RANK is set"),
        ({**VERTEX, "RANK": "2"}, "RANK=2 is not below the number of nodes, 2"),
    ],
)
def test_a_launcher_in_the_wrong_place(environ, named):
    with pytest.raises(ConfigError, match=named):
        nodes(environ)


def test_collected_environments(shared_dir):
    """Every environment that users reported: an answer or a ConfigError, and the expected one where it is stated."""
    path = shared_dir / "real" / "launch-environments" / "launch-environments.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    known = json.loads(path.read_text())
    assert {text: first_host(text) for text, _ in known["slurm_nodelists"]["cases"]} == dict(
        known["slurm_nodelists"]["cases"]
    )
    found = placement(known["slurm_env"]["env"])
    assert {key: getattr(found, key) for key in known["slurm_env"]["expect"]} == known["slurm_env"]["expect"]
    for case in known["cases"]:
        for function in (placement, nodes):
            with suppress(ConfigError):
                function(case.get("env", {}))
