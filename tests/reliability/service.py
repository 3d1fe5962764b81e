"""The real `masklet serve` with the stub engine: started, asked, killed, started again, and examined."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from reliability.rounds import check

TOKENS = {"ann": "ann-0123456789abcdef", "bob": "bob-0123456789abcdef"}
LONGEST_S = 3_600.0
"""Nothing here takes so long: a run that hangs says nothing."""


class Served:
    """The server that is killed: the real command, always with the same folder and port."""

    def __init__(self, root, *flags, workers=1):
        self.data, self.kills, self.together = root / "data", 0, 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.slowest_s = 0.0
        self._log = (root / "log").open("a+b")
        self._http = httpx.Client(base_url=self.url, verify=False, timeout=60)
        self._flags = ["--workers", str(workers), "--allow-private-urls", *flags]
        self._flags += [flag for owner, token in TOKENS.items() for flag in ("--token", f"{owner}:{token}")]

    def start(self, **environment):
        command = [sys.executable, "-m", "masklet", "serve", "--engine", "stub", "--data-dir", str(self.data)]
        command += ["--port", str(self.port), *self._flags]
        variables = {name: value for name, value in os.environ.items() if not name.startswith("MASKLET_")} | environment
        self._began, self._said = time.monotonic(), self._log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=self._log, env=variables)

    def wait_until_live(self):
        """Return how long it took from the start of the process to its first answer."""
        while not self.lives():
            assert self.process.poll() is None, "the server ended by itself"
            assert time.monotonic() - self._began < LONGEST_S
            time.sleep(0.01)
        return time.monotonic() - self._began

    def lives(self):
        with suppress(httpx.TransportError):
            return self._http.get("/healthz").status_code == 200
        return False

    def live_until(self, over):
        """Let it live, and ask every now and then how it is."""
        while not over():
            asked = time.monotonic()
            assert self.lives(), "the server does not answer"
            self.slowest_s = max(self.slowest_s, time.monotonic() - asked)
            time.sleep(0.02)

    def kill(self, dice):
        """End it, alone or with all that it started, in any order; it may have ended itself."""
        self.kills += 1
        if self.process.poll() is None:
            doomed = [psutil.Process(self.process.pid)]
            if dice.random() < 0.5:
                doomed += doomed[0].children(recursive=True)
                dice.shuffle(doomed)
                self.together += 1
            for process in doomed:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()

    def was_hit(self):
        """Whether the server, or a worker of it, was ended by SIGKILL since the start."""
        self._log.seek(self._said)
        return self.process.poll() is not None or b"was ended by SIGKILL" in self._log.read()

    def ask(self, path, owner="ann"):
        return self._http.get(path, headers={"Authorization": f"Bearer {TOKENS[owner]}"}).json()

    def quiet(self):
        """Whether nothing waits, runs, is to be told or lies about."""
        health = self.ask("/health")
        waiting = [health["predictions"].get(status, 0) for status in ("starting", "processing")]
        return not any((*waiting, health["webhooks"]["pending"], *(self.data / "work").iterdir()))

    def wait_until_quiet(self):
        began = time.monotonic()
        while not self.quiet():
            assert time.monotonic() - began < LONGEST_S
            time.sleep(0.1)

    def examine(self, acks):
        """Have the checker look at it, once it is quiet."""
        began, health = time.monotonic(), self.ask("/health")
        # Not before every worker is there: one that starts meanwhile would count as left behind.
        while any(worker["state"] != "ready" for worker in health["workers"]):
            assert time.monotonic() - began < LONGEST_S
            time.sleep(0.1)
            health = self.ask("/health")
        running = [worker["pid"] for worker in health["workers"]]
        found = check(self.data, acks, url=self.url, tokens=TOKENS, kills=self.kills, running=running)
        return Examined(health["predictions"], *found)

    def stop(self):
        """Stop it as one should."""
        self.process.terminate()
        assert self.process.wait(LONGEST_S) == 0

    def close(self):
        """End it, whatever it does, and let go of everything."""
        self.process.kill()
        self.process.wait()
        self._http.close()
        self._log.close()


@dataclass(frozen=True)
class Examined:
    """What is left in the end."""

    statuses: dict
    """How many predictions ended how."""
    violations: list
    looked: str
    """What the checker says it compared."""

    def lines(self):
        """Write it down."""
        yield f"in the end: {self.statuses}"
        yield self.looked.strip()
        yield f"{len(self.violations)} violations"
        yield from self.violations


def report(run, seed, **given):
    """Run something in a folder of its own, say what came of it, and end with 1 if anything was violated."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        result, left = run(Path(folder), seed=seed, **given)
        sys.stdout.writelines(f"{line}\n" for line in (*result.lines(), *left.lines()))
        sys.stdout.write(f"seed {seed}, {time.monotonic() - began:.0f} s in all\n")
    sys.exit(1 if left.violations else 0)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
