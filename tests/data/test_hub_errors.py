"""What the hub's refusals are told as: a server that answers as it does, in a process that is not offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Status and X-Error-Code by what a path names, as the hub sends them.
ANSWERS = {"gated": (403, "GatedRepo"), "v9": (404, "RevisionNotFound"), "absent": (401, "RepoNotFound")}
ASK = """
import json, sys
from advisor.data.dataset import load_dataset
from advisor.core.errors import BadInput
from advisor.models.config import only_task
told = {}
for kind, ask in (("model", only_task), ("data", load_dataset)):
    for name in ("org/gated", "org/absent"):
        try:
            ask(name)
        except BadInput as error:
            told[f"{kind} {name}"] = str(error)
try:
    only_task("org/there", revision="v9")
except BadInput as error:
    told["model org/there v9"] = str(error)
print(json.dumps(told))
"""


class Hub(BaseHTTPRequestHandler):
    def answer(self) -> None:
        status, code = next((answer for word, answer in ANSWERS.items() if word in self.path), (404, "EntryNotFound"))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"refused: {code}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = answer

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_refusals_of_the_hub(endpoint: str, tmp_path: Path) -> None:
    own = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_secret"}
    environment = {**os.environ, **own}
    ran = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    told = json.loads(ran.stdout.splitlines()[-1])
    for kind in ("model", "data"):
        assert "It is gated: accept its terms on its page, then log in with `hf auth login`" in told[f"{kind} org/gated"]
        assert "Check the name" in told[f"{kind} org/absent"]
    assert "check --revision" in told["model org/there v9"]
    assert "hf_secret" not in ran.stdout + ran.stderr


def test_offline_is_said(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    told = json.loads(ran.stdout.splitlines()[-1])
    assert len(told) == 5
    assert all("HF_HUB_OFFLINE is set, so only what is cached can be read" in text for text in told.values())
