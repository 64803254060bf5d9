"""The container file: what it copies exists, and nothing that the programs make, nor a key, can get into an image."""

import re


def test_what_is_copied_exists(root):
    text = (root / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE) for name in line.split()]
    assert "requirements.txt" in copied and [name for name in copied if not (root / name).exists()] == []


def test_the_commands_that_it_names_exist(root):
    text = (root / "Dockerfile").read_text()
    named = re.findall(r"\./(scripts/[\w.]+)|-m\", \"?([\w.]+)|(configs/[\w.]+)", text) + [
        ("", "utils.hardware_utils", "")
    ]
    files = {a or c or b.replace(".", "/") + ".py" for a, b, c in named}
    assert len(files) >= 4 and all((root / name).exists() for name in files), files


def test_what_git_leaves_out_stays_out_of_images(root):
    def entries(name: str) -> set[str]:
        lines = (root / name).read_text().splitlines()
        return {line.strip("/").removeprefix("**/") for line in lines if line and not line.startswith("#")}

    assert entries(".gitignore") <= entries(".dockerignore")
