"""Run in a network name space of its own: the cloud's metadata address answers there, and every way to it is tried.

Prints as JSON how often it was asked and how each try ended: with the door to the network as it is, and with a door
that judges no address, which shows that the tries would get there.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from masklet.server import egress
from masklet.server.egress import Egress
from masklet.server.failures import JobFailure
from server.fetching import raw, replies, says

METADATA, PUBLIC = "169.254.169.254", "93.184.215.14"
SPELLINGS = (
    METADATA,
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "0xa9.254.0251.254",
    "169.16689662",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]",
)


def tries(port, redirecting, path):
    """Yield a name and a function for each way to ask."""
    door, named = Egress(), Egress(resolve=lambda host: [METADATA])
    limits = {"most_bytes": 1_000, "within_s": 10}
    for spelling in SPELLINGS:
        url = f"http://{spelling}:{port}/"
        yield f"fetch {spelling}", lambda url=url: door.fetch(url, path, **limits)
        yield f"post {spelling}", lambda url=url: door.post(url, {}, b"{}", within_s=10)
    yield "fetch a name", lambda: named.fetch(f"http://video.test:{port}/", path, **limits)
    yield "post to a name", lambda: named.post(f"http://hook.test:{port}/", {}, b"{}", within_s=10)
    yield "fetch a redirect", lambda: door.fetch(redirecting, path, **limits)


def end_of(attempt):
    try:
        attempt()
    except JobFailure as failure:
        return failure.code
    return "it was asked"


def ask_all(canary, folder):
    there = f"http://{METADATA}:{canary.port}/"
    with raw(says(replies(302, location=there)), host=PUBLIC) as public:
        ends = {}
        for name, attempt in tries(canary.port, f"http://{PUBLIC}:{public.port}/", folder / "video"):
            ends[name] = end_of(attempt)
            (folder / "video").unlink(missing_ok=True)
        hits = len(canary.heads)
        canary.heads.clear()
        return {"ends": ends, "hits": hits, "redirects": len(public.heads)}


def main():
    for arguments in (
        ("link", "set", "lo", "up"),
        *(("addr", "add", f"{a}/32", "dev", "lo") for a in (METADATA, PUBLIC)),
    ):
        subprocess.run(["ip", *arguments], check=True)
    with tempfile.TemporaryDirectory() as folder, raw(says(replies(200, b"a secret")), host=METADATA) as canary:
        guarded = ask_all(canary, Path(folder))
        egress.why_refused = lambda address, private: None
        json.dump({"guarded": guarded, "open": ask_all(canary, Path(folder))}, sys.stdout)


if __name__ == "__main__":
    main()
