"""The evidence page's program for tests: started on a free port, with every other host that it asks for noted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WATCH = """
import os, sys

def note(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and not arguments[1][0].startswith("127."):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost", b"127.0.0.1"):
        host = arguments[0]
    else:
        return
    with open(os.environ["HOSTS_ASKED"], "a") as file:
        print(host, file=file)

sys.addaudithook(note)
"""
"""Notes whatever another host is asked for, as `sitecustomize` of the page's process"""


class Page:
    """The page's program."""

    def __init__(self, folder: Path, *options: str):
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(WATCH)
        (folder / "tmp").mkdir()
        self.temporary, self.asked, self.log = folder / "tmp", folder / "hosts.txt", folder / "log.txt"
        environment = os.environ | {
            "PYTHONPATH": str(folder),
            "HOSTS_ASKED": str(self.asked),
            "TMPDIR": str(self.temporary),
            "GRADIO_SHARE": "True",
            "GRADIO_SERVER_NAME": "0.0.0.0",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "examples/app.py", "--port", "0", "--device", "cpu", *options],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.said = []
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.match(r"page: (http://127\.0\.0\.1:\d+/)", line):
                self.url = found[1]
                return
        raise AssertionError(f"the page did not start: {self.log.read_text()}")

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        self.process.stdout.close()
        return code
