"""A Hugging Face Hub on the loopback, in memory: what huggingface_hub's client asks for, every byte that it sends, and faults.

with FakeHub() as hub:
    subprocess.run(..., env=os.environ | hub.environment())
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
import yaml

TOKEN, READ_ONLY = "hf_canarytokencanarytokencanary", "hf_readonlyreadonlyreadonly"
MAIN = "main"
REAL = "https://huggingface.co"


@dataclass
class Repository:
    """Branches point to commits, a commit is all files of that moment."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        content = [message, branch, *sorted(f"{k} {hashlib.sha1(v).hexdigest()}" for k, v in files.items())]
        name = hashlib.sha1("\n".join([*content, str(len(self.commits))]).encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        self.messages.append(message)
        return name

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = MAIN) -> dict[str, bytes]:
        return self.commits[self.branches[revision]]


class FakeHub:
    """`received`: all bytes of all requests. `faults`: name in `ROUTES` -> a status, `silent` or `drop`."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.received: list[bytes] = []
        self.routes: list[str] = []
        self.faults: dict[str, int | str] = {}
        self.seconds_a_request = 0.0
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float) -> None:
        """Until then, or until the test is over."""
        self._over.wait(seconds)

    def impatient(self, monkeypatch, seconds: float = 0.5) -> None:
        """Requests of this process end after so many seconds of silence."""
        from huggingface_hub.utils import _http

        from utils import hub

        monkeypatch.setattr(hub, "SECONDS", seconds)
        _http.close_session()  # the next client has the new limit

    def environment(self, home: os.PathLike, token: str | None = TOKEN) -> dict[str, str]:
        """For a program that takes this for the Hub; its cache and its ~/.env are below `home`."""
        own = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        own |= {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HOME": str(home), "HF_HOME": f"{home}/hf"}
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
        return own | ({"HF_TOKEN": token} if token else {})

    def everything(self) -> bytes:
        """All that was sent, and what its encoded parts say."""
        sent = b"\n".join(self.received)
        encoded = re.findall(rb'"content": ?"([A-Za-z0-9+/=]+)"', sent)
        return b"\n".join([sent, *(base64.b64decode(part) for part in encoded)])


class _Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.hub = self.server.hub

    def do_any(self):
        self.hub.wait(self.hub.seconds_a_request)
        path = unquote(self.path.split("?")[0])
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                self.hub.routes.append(name)
                if self._fault(name):
                    return
                body = self._body()
                self.hub.received.append(f"{self.command} {self.path}\n{self.headers}".encode() + body)
                if name != "validate" and name != "put" and (refused := self._refused(name)):
                    self._send({"error": "Invalid username or password."}, refused)
                    return
                getattr(self, f"on_{name}")(body, *match.groups())
                return
        self._body()
        self._send({"error": f"no route {self.command} {path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_any

    def _refused(self, name: str) -> int:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READ_ONLY):
            return 401
        writes = name in ("create", "branch", "preupload", "batch", "commit")
        if writes and not token:
            return 401
        return 403 if writes and token == READ_ONLY else 0

    def _fault(self, name: str) -> bool:
        fault = self.hub.faults.get(name)
        if fault == "silent":
            self.hub.wait(600)
            self.close_connection = True
            return True
        if fault == "drop":
            self.rfile.read(min(10, int(self.headers.get("Content-Length") or 0)))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return True
        if isinstance(fault, int):
            self._body()
            self._send({"error": "a text of the server"}, fault)
            return True
        return False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: object = None, status: int = 200, raw: bytes | None = None, **headers: str) -> None:
        data = json.dumps(answer).encode() if raw is None else raw
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if raw is None else "application/octet-stream")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.headers.get("Authorization")):
            self._send({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        return found

    def _commit_of(self, repository: Repository, revision: str) -> str | None:
        found = repository.resolve(revision)
        if found is None:
            self._send({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        return found

    def on_whoami(self, _):
        self._send({"name": "me", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def on_validate(self, body):
        card = yaml.safe_load(json.loads(body)["content"].split("---")[1])
        missing = [name for name in ("license", "tags", "pipeline_tag") if not card.get(name)]
        found = [{"message": f"{name} is missing"} for name in missing]
        self._send({"errors": found, "warnings": []}, 400 if found else 200)

    def on_create(self, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.hub.repositories:
            self._send({"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"}, 409)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private)
        self.hub.repositories[name].commit(MAIN, {".gitattributes": b""}, "initial commit")
        self._send({"url": f"{self.hub.address}/{name}", "name": name, "id": name})

    def on_branch(self, body, name, branch):
        if (repository := self._repository(name)) is None:
            return
        if branch in repository.branches:
            self._send({"error": "Reference already exists"}, 409)
            return
        repository.branches[branch] = repository.branches[MAIN]
        self._send({})

    def on_info(self, _, name, revision):
        if (repository := self._repository(name)) and (commit := self._commit_of(repository, revision or MAIN)):
            files = [{"rfilename": path} for path in repository.commits[commit]]
            described = {"id": name, "modelId": name, "sha": commit, "private": repository.private, "tags": []}
            self._send(described | {"siblings": files})

    def on_tree(self, _, name, revision):
        if (repository := self._repository(name)) and (commit := self._commit_of(repository, revision)):
            files = repository.commits[commit].items()
            self._send(
                [{"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for p, d in files],
                X_Repo_Commit=commit,
            )

    def on_preupload(self, body, name, _):
        large = (".safetensors", ".bin", ".pt")
        kinds = [
            (one["path"], "lfs" if one["path"].endswith(large) else "regular") for one in json.loads(body)["files"]
        ]
        self._send({"files": [{"path": path, "uploadMode": kind, "shouldIgnore": False} for path, kind in kinds]})

    def on_batch(self, body, _):
        def action(one: dict) -> dict:
            upload = {"upload": {"href": f"{self.hub.address}/put/{one['oid']}"}}
            return {"oid": one["oid"], "size": one["size"]} | (
                {} if one["oid"] in self.hub.blobs else {"actions": upload}
            )

        self._send({"transfer": "basic", "objects": [action(one) for one in json.loads(body)["objects"]]})

    def on_put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._send({})

    def on_commit(self, body, name, branch):
        repository = self._repository(name)
        if repository is None or (parent := self._commit_of(repository, branch)) is None:
            return
        files, message = dict(repository.commits[parent]), ""
        for line in body.decode().splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"])
        commit = repository.commit(branch, files, message)
        self._send({"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def on_resolve(self, _, name, revision, path):
        if (repository := self._repository(name)) and (commit := self._commit_of(repository, revision)):
            data = repository.commits[commit].get(path)
            if data is None:
                self._send({"error": "none"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                return
            self._send(raw=data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=commit)


_NAME = r"([^/]+/[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/validate-yaml", "validate"),
    ("POST", "/api/repos/create", "create"),
    ("POST", rf"/api/models/{_NAME}/branch/(.+)", "branch"),
    ("POST", rf"/api/models/{_NAME}/preupload/(.+)", "preupload"),
    ("POST", rf"/{_NAME}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/put/(\w+)", "put"),
    ("POST", rf"/api/models/{_NAME}/commit/(.+)", "commit"),
    ("GET HEAD", rf"/api/models/{_NAME}(?:/revision/(.+))?", "info"),
    ("GET HEAD", rf"/api/models/{_NAME}/tree/([^/]+).*", "tree"),
    ("GET HEAD", rf"/{_NAME}/resolve/([^/]+)/(.+)", "resolve"),
]


@pytest.fixture
def hub_here(monkeypatch, tmp_path):
    """A fake Hub that huggingface_hub in this process takes for the real one, with a token and an empty cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    from models import hub_folder

    with FakeHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(REAL, hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)  # between two tries of a request
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub_folder._downloaded.cache_clear()
        yield hub
        hub_folder._downloaded.cache_clear()
        _http.close_session()
