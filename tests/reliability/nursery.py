"""Starts servers faster than they can be imported: a process that has imported everything and forks one for each order.

    {"start": ["life", ...] or ["afterlife", ...], "log": FILE, "environment": {...}} -> {"pid": 123}
    {"wait": 123} -> {"status": -9}

A fork is safe here because this process has one thread. Everything else is as in earnest: each server is a process,
its workers are programs of their own, and SIGKILL is SIGKILL.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

LONGEST_LIFE_S = 120
TESTS = Path(__file__).parents[1]


class Nursery:
    """The test's end."""

    def __init__(self, process):
        self._process = process

    def start(self, *order, log, **environment):
        """Start a server; returns its process id."""
        return self._ask(start=[str(part) for part in order], log=str(log), environment=environment)["pid"]

    def wait(self, pid):
        """Wait for a server's end; returns its exit code, or minus the signal that ended it."""
        return self._ask(wait=pid)["status"]

    def _ask(self, **order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def nursery():
    """Run a nursery while the block lasts."""
    path = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MASKLET_")}
    variables |= {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "MASKLET_TESTING": "1"}
    command = [sys.executable, "-m", "reliability.nursery"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables) as process:
        try:
            yield Nursery(process)
        finally:
            process.stdin.close()
            process.stdout.close()


def main():
    """Take orders until the test ends."""
    from reliability import servers

    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        else:
            pid = os.fork()
            if pid == 0:
                be_born(order, servers)
            answer = {"pid": pid}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def be_born(order, servers):
    """Become the server that was ordered."""
    code = 1
    try:
        nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order["environment"])
        signal.alarm(LONGEST_LIFE_S)  # a test that waits for ever says nothing
        kind, *arguments = order["start"]
        getattr(servers, kind)(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
