"""A W&B server for tests: answers the real client as far as a run of numbers needs, and keeps every byte it was sent."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import threading
import zlib
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Request:
    """One request, its body as it was before compression."""

    method: str
    path: str
    headers: str
    body: bytes

    def everything(self) -> bytes:
        return f"{self.method} {self.path}\n{self.headers}\n".encode() + self.body


class FakeWandb(ThreadingHTTPServer):
    """Serves one account with any number of runs on 127.0.0.1; use it in a `with` statement."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Request] = []
        self.runs: dict[str, dict] = {}
        """run id -> the bucket: `config`, `history` (the lines as stored) and what else the client said of it"""
        self.sweeps: dict[str, str] = {}
        """sweep id -> its file, as the client sent it"""
        self.trials: list[dict[str, object]] = []
        """settings of the runs that the next agents shall start, as `trial001` and so on"""
        self.started = 0
        self.status = 200
        """what every request is answered with; other than 200 as an error of the service"""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that has gone is no error of this server."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def everything(self) -> bytes:
        """All that arrived, with lines and headers."""
        return b"\n".join(request.everything() for request in self.requests)

    def history(self, run: str) -> list[dict]:
        """The lines of a run as the service has them."""
        return [json.loads(line) for line in self.runs[run]["history"]]

    def answer_query(self, query: str, variables: dict) -> dict:
        """The `data` of a GraphQL answer. KeyError for a question that this server does not know."""
        name = re.search(r"\b(?:query|mutation)\s+(\w+)", query)[1]
        if name == "Viewer":
            return {"viewer": VIEWER}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if name == "UpsertBucket":
            return {"upsertBucket": self._upsert(variables)}
        if name == "RunResumeStatus":
            return {"model": self._status(variables)}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/upload/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if name == "UpsertSweep":
            self.sweeps["sweep001"] = variables["config"]
            return {"upsertSweep": {"sweep": {"name": "sweep001", "project": PROJECT | {"name": "p"}}}}
        if name == "SweepWithRuns":
            sweep = {"id": "s", "name": "sweep001", "state": "RUNNING", "config": self.sweeps[variables["sweep"]]}
            return {"project": {"sweep": sweep | {"runs": {"edges": []}}}}
        if name == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if name == "Heartbeat":
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(self._commands(variables))}}
        raise KeyError(name)

    def _commands(self, variables: dict) -> list[dict]:
        """For an agent: the next trial once it has none, and to leave when there are no more."""
        if json.loads(variables.get("runState") or "{}"):
            return []
        if not self.trials:
            return [{"type": "exit"}]
        self.started += 1
        arguments = {name: {"value": value} for name, value in self.trials.pop(0).items()}
        return [{"type": "run", "run_id": f"trial{self.started:03d}", "program": "scripts/track.py", "args": arguments}]

    def _upsert(self, variables: dict) -> dict:
        run = variables["name"]
        inserted = run not in self.runs
        bucket = self.runs.setdefault(run, {"history": [], "files": {}, "summary": "{}"})
        bucket.update({name: value for name, value in variables.items() if value is not None})
        return {
            "bucket": self._bucket(run) | {"project": PROJECT | {"name": variables["project"]}},
            "inserted": inserted,
        }

    def _bucket(self, run: str) -> dict:
        bucket = self.runs[run]
        return {
            "id": f"id-{run}",
            "name": run,
            "displayName": bucket.get("displayName") or "quiet-river-1",
            "description": "",
            "config": bucket.get("config", "{}"),
            "sweepName": None,
            "historyLineCount": len(bucket["history"]),
        }

    def _status(self, variables: dict) -> dict:
        run = variables["name"]
        bucket = None
        if run in self.runs:
            last = json.loads(self.runs[run]["history"][-1]) if self.runs[run]["history"] else {}
            bucket = self._bucket(run) | {
                "summaryMetrics": self.runs[run]["summary"],
                "logLineCount": 0,
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(last)]),
                "eventsTail": "[]",
                "tags": [],
                "notes": None,
                "wandbConfig": json.dumps({"t": 1}),
            }
        return PROJECT | {"name": variables["project"], "bucket": bucket}

    def take_stream(self, run: str, content: dict) -> None:
        """Lines of a run's files, each with the number of its first line."""
        bucket = self.runs[run]
        for name, chunk in (content.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                del bucket["history"][chunk["offset"] :]
                bucket["history"] += chunk["content"]
            elif name == "wandb-summary.json":
                bucket["summary"] = chunk["content"][-1]
            else:
                bucket["files"][name] = chunk["content"]
        if content.get("complete"):
            bucket["exit_code"] = content.get("exitcode")


VIEWER = {"id": "u", "entity": "team", "username": "someone", "email": "", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "p", "name": "", "entity": {"id": "e", "name": "team"}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeWandb

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.take()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET

    def take(self):
        request = Request(self.command, self.path, str(self.headers), self._body())
        self.server.requests.append(request)
        if self.server.status != 200:
            return self.answer(self.server.status, {"error": "told to fail"})
        if self.path.startswith("/graphql"):
            asked = json.loads(request.body)
            try:
                return self.answer(
                    200, {"data": self.server.answer_query(asked["query"], asked.get("variables") or {})}
                )
            except KeyError as unknown:
                return self.answer(200, {"errors": [{"message": f"unknown to this server: {unknown}"}]})
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.server.take_stream(stream[1], json.loads(request.body))
        return self.answer(200, {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        coding = self.headers.get("Content-Encoding")
        return gzip.decompress(body) if coding == "gzip" else zlib.decompress(body) if coding == "deflate" else body

    def answer(self, status: int, content: dict):
        body = json.dumps(content).encode()
        with contextlib.suppress(ConnectionError):  # a client that has been told to stop has left
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
