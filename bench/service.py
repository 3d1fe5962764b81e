"""What the service does without a model: durable creates and status reads a second, how long each takes, and the loop.

    python bench/service.py [--seconds 10] [--clients 16] [--floor 50]

Runs a real `masklet serve` without workers and asks it over kept connections, from a process of its own on the same
machine. A create is answered only when SQLite has flushed it (WAL, `synchronous=FULL`); beside it stands what this disk
flushes a second by itself. Exits with 1 when creates are below the floor.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from clips import machine

BODY = json.dumps(
    {
        "version": "meta/sam-2-video",
        "input": {"input_video": "https://example.com/dog.mp4", "click_coordinates": "[320,180]"},
    }
).encode()
LAG = re.compile(r'masklet_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)')


@dataclass(frozen=True)
class Measured:
    """One kind of request, asked as often as it goes."""

    name: str
    seconds: float
    times_ms: list[float]

    def row(self) -> str:
        """Return a line of the table."""
        rate = len(self.times_ms) / self.seconds
        cuts = statistics.quantiles(self.times_ms, n=100)
        return f"{self.name:<34}{rate:>10.0f}{cuts[49]:>10.1f}{cuts[98]:>10.1f}{max(self.times_ms):>10.1f}"


class Connection:
    """A kept connection that asks one thing after another."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port

    async def open(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Send a request and return the answer's body; anything but 2xx ends the benchmark."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(line[15:]) for line in headers if line.lower().startswith("content-length:"))
        answer = await self._reader.readexactly(length)
        if not status.startswith("HTTP/1.1 2"):
            raise SystemExit(f"{method} {path}: {status} {answer.decode()}")
        return answer

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def measure(
    name: str, url: str, clients: int, seconds: float, ask: Callable[[Connection], Awaitable[object]]
) -> Measured:
    """Let `clients` ask for so long, each one request after another."""
    parts = urlsplit(url)
    connections = [Connection(parts.hostname or "", parts.port or 80) for _ in range(clients)]
    times: list[float] = []
    for connection in connections:
        await connection.open()
    started = time.perf_counter()

    async def go_on(connection: Connection) -> None:
        while time.perf_counter() - started < seconds:
            before = time.perf_counter()
            await ask(connection)
            times.append((time.perf_counter() - before) * 1e3)

    await asyncio.gather(*map(go_on, connections))
    taken = time.perf_counter() - started
    for connection in connections:
        connection.close()
    return Measured(f"{name}, {clients} clients", taken, times)


def flushes_a_second(folder: Path, seconds: float = 2.0) -> float:
    """Return how often this disk flushes a small write."""
    count, started = 0, time.perf_counter()
    with (folder / "flush").open("wb", buffering=0) as file:
        while time.perf_counter() - started < seconds:
            file.write(b"x" * 4_096)
            os.fdatasync(file.fileno())
            count += 1
    return count / (time.perf_counter() - started)


def worst_lag(url: str) -> str:
    """Return between which bounds the latest wake-up of the server's event loop was."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        buckets = [(bound, float(count)) for bound, count in LAG.findall(answer.read().decode())]
    total = buckets[-1][1]
    bound = next(bound for bound, count in buckets if count == total)
    return f"{total:.0f} wake-ups of the event loop, the latest no later than {bound} s"


async def run(url: str, clients: int, seconds: float) -> list[Measured]:
    """Measure each kind of request in turn."""
    made: list[str] = []

    async def create(connection: Connection) -> None:
        made.append(json.loads(await connection.ask("POST", "/v1/predictions", BODY))["id"])

    async def read(connection: Connection) -> None:
        await connection.ask("GET", f"/v1/predictions/{made[len(made) // 2]}")

    async def live(connection: Connection) -> None:
        await connection.ask("GET", "/healthz")

    rows = []
    for name, ask, at_once in (
        ("create (durable)", create, 1),
        ("create (durable)", create, clients),
        ("status", read, 1),
        ("status", read, clients),
        ("healthz", live, clients),
    ):
        rows.append(await measure(name, url, at_once, seconds, ask))
        print(rows[-1].row(), flush=True)
    return rows


def main() -> None:
    """Start a server, measure it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each line")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--floor", type=float, default=50.0, help="creates a second, with all clients")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"HTTP service without workers\n{machine()}")
        print(f"This disk: {flushes_a_second(Path(folder)):.0f} flushed writes of 4 KiB a second\n")
        print(f"{'':<34}{'a second':>10}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}")
        flags = ["--port", "0", "--data-dir", f"{folder}/data", "--workers", "0", "--waiting", "10000000"]
        command = [sys.executable, "-m", "masklet", "serve", *flags, "--waiting-per-owner", "10000000"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            assert server.stderr is not None
            url = next(json.loads(line)["url"] for line in server.stderr if '"listening"' in line)
            # Its log must be read, or it stops when the pipe is full.
            with subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL):
                try:
                    rows = asyncio.run(run(url, arguments.clients, arguments.seconds))
                    print(f"\n{worst_lag(url)}")
                finally:
                    server.terminate()
    creates = len(rows[1].times_ms) / rows[1].seconds
    if creates < arguments.floor:
        raise SystemExit(f"{creates:.0f} durable creates a second: the floor is {arguments.floor:g}")


if __name__ == "__main__":
    main()
