"""~/.env: what is taken from it, how it is read, and that no value is ever shown."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.secrets_file import NAMES, load_env_file, parse, without_secrets

CANARY = "canary-7f3a"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("HF_TOKEN=a", "a"),
        ("export HF_TOKEN=a", "a"),
        ("  export   HF_TOKEN=a # comment", "a"),
        ("HF_TOKEN='a b#c'", "a b#c"),
        ('HF_TOKEN="a \\"b\\" \\$c"', 'a "b" $c'),
        ("HF_TOKEN=a#b", "a#b"),
        ("HF_TOKEN=a\\ b", "a b"),
        ("HF_TOKEN='it'\\''s'", "it's"),
        ("HF_TOKEN=$HOME", "$HOME"),
        ("HF_TOKEN=", ""),
        ("HF_TOKEN=# nothing", ""),
        ("HF_TOKEN=a=b==", "a=b=="),
    ],
)
def test_lines(line, value):
    assert parse(f"# a comment\n\n{line}\nnot an assignment\n") == {"HF_TOKEN": value}


printable = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=40)


@given(st.dictionaries(st.sampled_from([*NAMES, "OTHER"]), printable), st.sampled_from(["", "export "]))
def test_what_a_shell_would_quote_comes_back(values, prefix):
    text = "\n".join(f"{prefix}{name}={shlex.quote(value)}" for name, value in values.items())
    assert parse(text) == values


@given(st.text(max_size=60))
def test_any_text_can_be_parsed(text):
    assert all(isinstance(value, str) for value in parse(text).values())


def write(folder, text, mode=0o600):
    path = folder / ".env"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_only_what_is_known_and_not_set_is_taken(tmp_path, caplog):
    path = write(tmp_path, f"HF_TOKEN={CANARY}\nexport MIMIC_CXR_PATH='/data/a b'\nWANDB_API_KEY=file\nPATH=/evil\n")
    environ = {"WANDB_API_KEY": "mine", "PATH": "/bin", "HF_TOKEN": ""}
    assert load_env_file(path, environ) == ["HF_TOKEN", "MIMIC_CXR_PATH"]
    assert environ == {
        "WANDB_API_KEY": "mine",
        "PATH": "/bin",
        "HF_TOKEN": CANARY,
        "MIMIC_CXR_PATH": "/data/a b",
    }
    assert not caplog.records


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o602])
def test_secrets_that_others_may_open_are_not_read(tmp_path, caplog, mode):
    environ = {}
    path = write(tmp_path, f"HF_TOKEN={CANARY}\nMIMIC_QA_PATH=/qa\n", mode)
    assert load_env_file(path, environ) == ["MIMIC_QA_PATH"]
    assert environ == {"MIMIC_QA_PATH": "/qa"}
    assert "HF_TOKEN is not read: chmod 600" in caplog.text
    assert CANARY not in caplog.text


def test_the_home_folder_and_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MIMIC_CXR_PATH", raising=False)
    assert load_env_file() == []
    write(tmp_path, "MIMIC_CXR_PATH=/data\n")
    environ = {}
    assert load_env_file(environ=environ) == ["MIMIC_CXR_PATH"]


def test_what_cannot_be_read_is_left_out(tmp_path, caplog):
    path = tmp_path / ".env"
    path.write_bytes(b"HF_TOKEN=\xff" + CANARY.encode())
    assert load_env_file(path, {}) == []
    assert "not UTF-8" in caplog.text
    assert CANARY not in caplog.text
    assert load_env_file(tmp_path, {}) == []


def test_keys_and_passwords_are_taken_out_of_what_others_say():
    environ = {"WANDB_API_KEY": "abc-123", "HF_TOKEN": CANARY, "OTHER": "kept"}
    text = f"POST https://someone:word@host:1/a?b=c@d with abc-123 and {CANARY}, kept; http://h/x@y"
    assert without_secrets(text, environ) == (
        "POST https://host:1/a?b=c@d with <WANDB_API_KEY> and <HF_TOKEN>, kept; http://h/x@y"
    )
    assert without_secrets("HF_TOKEN", {"HF_TOKEN": ""}) == "HF_TOKEN"
