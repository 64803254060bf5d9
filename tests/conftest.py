"""No network, one thread, no keys of the user; and the option --slow."""

import os
from pathlib import Path

# Before the first import of torch or of the Hugging Face libraries, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "disabled"
os.environ["OMP_NUM_THREADS"] = "1"
for variable in ("MIMIC_CXR_PATH", "MIMIC_QA_PATH", "WANDB_API_KEY", "HF_TOKEN", "DEBUG"):
    os.environ.pop(variable, None)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

# A busy machine is no bug: no deadline for a single example.
settings.register_profile("repository", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repository")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(autouse=True)
def names_stay_out_of_the_working_folder(monkeypatch, tmp_path_factory):
    """Messages of which a test's console gets the hashed form."""
    from utils import privacy

    monkeypatch.setattr(privacy, "LOCAL_NAMES", tmp_path_factory.getbasetemp() / "names.log")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Sample releases beside the repository; tests that need them are skipped where they are not."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the sample releases are not here: ../shared")
    return folder
