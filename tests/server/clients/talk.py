"""Runs a client's script in its own environment, and hears what it saw: one JSON line a scene."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from shell import PATIENCE_S

from server.clients.environments import node_with, python_with
from server.serving import CERT

HERE = Path(__file__).parent
CLIENTS = ("python1", "python2", "javascript")


@dataclass(frozen=True)
class Seen:
    """What a client saw in one scene: what it returned, or what it raised."""

    value: object = None
    raised: str | None = None
    """The error's class and text."""

    def __getitem__(self, name):
        assert self.raised is None, self.raised
        return self.value[name]


def talk(client, scenes, **about):
    """Let a client act out scenes and return what it saw in each; `about` is what its script is told."""
    command, environment = _command(client)
    environment |= os.environ | {"SSL_CERT_FILE": str(CERT), "NODE_EXTRA_CA_CERTS": str(CERT)} | environment
    told = json.dumps({"scenes": list(scenes), **about})
    done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line.pop("scene"): Seen(**line) for line in lines}


def _command(client):
    if client == "javascript":
        return ["node", str(HERE / "javascript.cjs")], {"NODE_PATH": str(node_with("replicate@1.4.0") / "node_modules")}
    version = {"python1": "1.0.7", "python2": "2.0.0b4"}[client]
    return [str(python_with(f"replicate=={version}")), str(HERE / f"{client}.py")], {}
