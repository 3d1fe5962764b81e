"""The invariants, checked from outside: what clients were told against the API, the database and the disk.

    python checker.py --data FOLDER --acks FOLDER [--url URL --token OWNER=TOKEN ...] [--kills N] [--running PID ...]

A program of its own that imports nothing of masklet. It is run after quiet, prints a line for each violation
(invariant, prediction, what is wrong) and ends with 1 if there are any. `reliability.md` explains I1 to I9.
"""

import argparse
import hashlib
import json
import re
import sqlite3
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

FINAL = ("succeeded", "failed", "canceled", "aborted")
TOLD = {"create": "creates", "saw": "ends", "hook": "webhooks"}
CODE = re.compile(r"E_[A-Z_]+")
UNFIT = re.compile(r"Traceback|File \"|(?<![\w:/.])/(?:[\w.\-]+/)+[\w.\-]*|Bearer|whsec_|secret")
"""What a sentence for an owner never holds: a traceback, a path, a token."""
CLOSED = ("http://127.0.0.1", "https://127.0.0.1")
SHOWN = {"aborted": "canceled"}
"""States that the API calls by another name, as clients do not know them."""
OTHERS_ASKED_FOR = 50


class Checker:
    def __init__(self, data, acks, *, api=None, kills=0, running=()):
        self.data, self.api, self.kills, self.running = data, api, kills, set(running)
        self.violations = []
        self.acks = [json.loads(line) for path in sorted(acks.glob("*.log")) for line in whole_lines(path)]
        database = sqlite3.connect(f"file:{data / 'masklet.db'}?mode=ro", uri=True)
        database.row_factory = sqlite3.Row
        with database:
            self.rows = {row["id"]: row for row in database.execute("SELECT * FROM predictions")}
            self.events = by_prediction(database.execute("SELECT * FROM events ORDER BY seq"))
            self.outputs = by_prediction(database.execute("SELECT * FROM outputs ORDER BY position"))
            self.outbox = by_prediction(database.execute("SELECT * FROM outbox ORDER BY number"))
            self.files = {row["id"] for row in database.execute("SELECT id FROM files")}
        database.close()

    def say(self, invariant, id, what):
        self.violations.append(f"{invariant} {id} {what}")

    def run(self):
        for check in (self.i1, self.i2, self.i3, self.i4, self.i5, self.i6, self.i7, self.i8, self.i9):
            check()
        if self.api is not None:
            self.check_answers()
            self.check_addresses()
            for owner in self.api.tokens:
                self.check_view(owner)
        return self.violations

    def done(self, did):
        return [ack for ack in self.acks if ack["did"] == did]

    def with_status(self, *status):
        return [row for row in self.rows.values() if row["status"] in status]

    def i1(self):
        """What was acknowledged can be had."""
        for ack in self.done("create"):
            row = self.rows.get(ack["id"])
            if row is None:
                self.say("I1", ack["id"], "was accepted and is not in the database")
            elif row["owner"] != ack["owner"]:
                self.say("I1", ack["id"], f"was accepted from {ack['owner']} and belongs to {row['owner']}")

    def i2(self):
        """Each has one final state, for ever."""
        for id, row in self.rows.items():
            ends = [json.loads(event["data"])["status"] for event in self.events[id] if event["kind"] == "completed"]
            if row["status"] not in FINAL:
                self.say("I2", id, f"is {row['status']} after quiet")
            elif not row["data_removed"] and ends != [row["status"]]:
                self.say("I2", id, f"is {row['status']}, and its events say {ends}")
            kinds = [event["kind"] for event in self.events[id]]
            if "completed" in kinds[:-1] or "start" in kinds[1:]:
                self.say("I2", id, f"has events out of order: {kinds}")
        for ack in self.done("saw"):
            row = self.rows.get(ack["id"])
            if row is not None and ack["status"] not in names_of(row["status"]):
                self.say("I2", ack["id"], f"was seen {ack['status']} and is {row['status']}")

    def i3(self):
        """Success means every output, as stated."""
        frames = {ack["id"]: ack["frames"] for ack in self.done("create") if ack["frames"] is not None}
        for row in self.with_status("succeeded"):
            if row["data_removed"]:
                continue
            outputs = [output for output in self.outputs[row["id"]] if output["role"] == "output"]
            if [output["position"] for output in outputs] != list(range(len(outputs))):
                self.say("I3", row["id"], f"has outputs {[output['position'] for output in outputs]}")
            if row["id"] in frames and len(outputs) != frames[row["id"]]:
                self.say("I3", row["id"], f"has {len(outputs)} outputs and should have {frames[row['id']]}")
            for output in self.outputs[row["id"]]:
                self.check_file(row, output)
        for ack in self.done("saw"):
            names = [output["name"] for output in self.outputs[ack["id"]] if output["role"] == "output"]
            if ack["status"] == "succeeded" and names != ack["outputs"]:
                self.say("I3", ack["id"], f"was seen with {ack['outputs']} and has {names}")

    def check_file(self, row, output):
        path = self.data / "outputs" / row["id"] / str(output["token"]) / output["name"]
        if not path.is_file():
            self.say("I3", row["id"], f"{output['name']} is not on the disk")
            return
        content = path.read_bytes()
        if len(content) != output["size"]:
            self.say("I3", row["id"], f"{output['name']} has {len(content)} bytes and should have {output['size']}")
        elif hashlib.sha256(content).hexdigest() != output["sha256"]:
            self.say("I3", row["id"], f"{output['name']} is not what was published")

    def i4(self):
        """Anything else says why."""
        for row in self.with_status("failed", "aborted", "canceled"):
            if row["error_code"] is None or not CODE.fullmatch(row["error_code"]):
                self.say("I4", row["id"], f"is {row['status']} with the code {row['error_code']}")
            if not row["error"] or UNFIT.search(row["error"]) or "\n" in row["error"]:
                self.say("I4", row["id"], f"is {row['status']} with the error {row['error']!r}")

    def i5(self):
        """Cancelled means no outputs, and nobody was told of success."""
        for row in self.with_status("canceled", "aborted"):
            if self.outputs[row["id"]]:
                self.say("I5", row["id"], f"is {row['status']} and has {len(self.outputs[row['id']])} outputs")
        for ack in self.done("hook"):
            row = self.rows.get(ack["id"])
            if ack["kind"] == "completed" and row is not None and ack["status"] not in names_of(row["status"]):
                self.say("I5", ack["id"], f"is {row['status']}, and a webhook said {ack['status']}")

    def i6(self):
        """A key makes one prediction, which runs no oftener than something died."""
        ids = defaultdict(set)
        for ack in self.done("create"):
            if ack["key"] is not None:
                ids[ack["owner"], ack["key"]].add(ack["id"])
        for (owner, key), made in ids.items():
            if len(made) > 1:
                self.say("I6", sorted(made)[0], f"and {len(made) - 1} more came of {owner}'s key {key}")
        for id, row in self.rows.items():
            if row["attempts"] > 1 + self.kills:
                self.say("I6", id, f"was begun {row['attempts']} times with {self.kills} deaths")
            told = [json.loads(event["data"])["position"] for event in self.events[id] if event["kind"] == "output"]
            if len(told) != len(set(told)):
                self.say("I6", id, f"published outputs {told}")

    def i7(self):
        """The end is told, after the start."""
        heard = defaultdict(list)
        for ack in self.done("hook"):
            heard[ack["id"]].append(ack)
        for id, row in self.rows.items():
            wanted = row["webhook"] is not None and '"completed"' in row["webhook_events"]
            if not wanted or row["status"] not in FINAL or row["data_removed"]:
                continue
            ends = [hook for hook in self.outbox[id] if hook["kind"] == "completed"]
            if len(ends) != 1:
                self.say("I7", id, f"has ended and {len(ends)} webhooks are to say so")
            for hook in ends:
                if hook["state"] == "pending":
                    self.say("I7", id, "has ended and its webhook is neither delivered nor given up")
                if hook["state"] == "delivered" and hook["id"] not in {ack["hook"] for ack in heard[id]}:
                    self.say("I7", id, f"its webhook {hook['id']} counts as delivered and was never received")
        for id, acks in heard.items():
            kinds = list(dict.fromkeys(ack["kind"] for ack in acks))
            if "start" in kinds and "completed" in kinds and kinds.index("start") > kinds.index("completed"):
                self.say("I7", id, f"webhooks came in the order {kinds}")

    def i8(self):
        """After quiet nothing is left of any job."""
        for id, row in self.rows.items():
            if row["worker"] is not None or row["expires_monotonic"] is not None:
                self.say("I8", id, f"is {row['status']} and still leased to {row['worker']}")
        known = {(id, str(output["token"])) for id, outputs in self.outputs.items() for output in outputs}
        for claim in (self.data / "outputs").glob("*/*"):
            if (claim.parent.name, claim.name) not in known:
                self.say("I8", claim.parent.name, f"left the folder outputs/{claim.parent.name}/{claim.name}")
        for path in (self.data / "work").iterdir():
            self.say("I8", path.name, "left a folder of work")
        for path in (self.data / "uploads").iterdir():
            if path.name not in self.files:
                self.say("I8", path.name, "is an upload that nobody knows")
        for path in self.data.rglob(".*.part"):
            self.say("I8", path.name, "is a file that was never finished")
        for pid in workers_of(self.data) - self.running:
            self.say("I8", str(pid), "is a worker whose server is gone")

    def i9(self):
        """Nobody sees another's."""
        canaries = {ack["canary"]: ack["owner"] for ack in self.done("create") if ack["canary"]}
        for id, row in self.rows.items():
            texts = [row["input"], *(event["data"] for event in self.events[id])]
            for canary, owner in canaries.items():
                if owner != row["owner"] and any(canary in text for text in texts):
                    self.say("I9", id, f"of {row['owner']} holds what {owner} sent")

    def check_answers(self):
        """Hold each answer to a GET against what was promised and what the database holds."""
        for ack in self.done("create"):
            status, body = self.api.get(ack["id"], ack["owner"])
            if status != 200:
                self.say("I1", ack["id"], f"was accepted, and GET answers {status}")
            elif body["id"] != ack["id"]:
                self.say("I1", ack["id"], f"was accepted, and GET answers with {body['id']}")
        for id, row in self.rows.items():
            status, body = self.api.get(id, row["owner"])
            if status == 200 and not row["data_removed"]:
                self.check_answer(row, body)

    def check_answer(self, row, body):
        id = row["id"]
        if body["status"] != names_of(row["status"])[1]:
            self.say("I2", id, f"is {row['status']} and is answered as {body['status']}")
        if (body["error"], body["error_code"]) != (row["error"], row["error_code"]):
            self.say(
                "I4", id, f"ended with {row['error_code']}, and is answered with {body['error_code']}: {body['error']}"
            )
        urls = body["output"] or []
        if row["status"] in ("canceled", "aborted") and urls:
            self.say("I5", id, f"is {row['status']} and is answered with {len(urls)} outputs")
        if row["status"] == "succeeded":
            self.check_downloads(row, urls, body["urls"].get("manifest"))

    def check_downloads(self, row, urls, manifest):
        outputs = [output for output in self.outputs[row["id"]] if output["role"] == "output"]
        if len(urls) != len(outputs):
            self.say("I3", row["id"], f"is answered with {len(urls)} outputs and has {len(outputs)}")
        manifests = [output for output in self.outputs[row["id"]] if output["role"] == "manifest"]
        pairs = [*zip(urls, outputs, strict=False), *((manifest, output) for output in manifests)]
        for url, output in pairs:
            status, content = (404, b"") if url is None else self.api.download(url)
            if status != 200:
                self.say("I3", row["id"], f"{output['name']} downloads with {status}")
            elif hashlib.sha256(content).hexdigest() != output["sha256"]:
                self.say("I3", row["id"], f"{output['name']} downloads otherwise than it was published")

    def check_addresses(self):
        """Whoever took an output's address while the prediction ran gets the output, or nothing if it was cancelled."""
        for ack in self.done("url"):
            row = self.rows.get(ack["id"])
            if row is None or row["data_removed"]:
                continue
            status, _ = self.api.download(ack["url"])
            if row["status"] in ("canceled", "aborted") and status != 404:
                self.say("I5", ack["id"], f"is {row['status']}, and an address of before answers {status}")
            if row["status"] == "succeeded" and status != 200:
                self.say("I3", ack["id"], f"has succeeded, and an address of before answers {status}")

    def check_view(self, owner):
        """An owner's token, or none, opens nothing of another's."""
        ids, text = self.api.list(owner)
        for id in ids:
            if id in self.rows and self.rows[id]["owner"] != owner:
                self.say("I9", id, f"of {self.rows[id]['owner']} is listed for {owner}")
        others = [ack for ack in self.done("create") if ack["owner"] != owner]
        for canary in {ack["canary"] for ack in others if ack["canary"]}:
            if canary in text:
                self.say("I9", canary, f"of another is in the list of {owner}")
        for ack in others[:OTHERS_ASKED_FOR]:
            status, _ = self.api.get(ack["id"], owner)
            if status != 404:
                self.say("I9", ack["id"], f"of {ack['owner']} is answered to {owner} with {status}")
            for output in self.outputs[ack["id"]][:1]:
                self.check_unsigned(ack, output, owner)

    def check_unsigned(self, ack, output, owner):
        for asking, allowed in ((owner, (404,)), (None, (401, 403))):
            status, _ = self.api.fetch(f"/v1/outputs/{ack['id']}/{output['name']}", asking)
            if status not in allowed:
                self.say(
                    "I9", ack["id"], f"{output['name']} of {ack['owner']} answers {status} to {asking or 'nobody'}"
                )


class Api:
    """The service as its clients see it."""

    def __init__(self, url, tokens):
        if not url.startswith(CLOSED):
            raise SystemExit(f"{url} is not this machine")
        self.url, self.tokens, self._answers = url, tokens, {}

    def fetch(self, path, owner=None):
        request = urllib.request.Request(self.url + path)
        if self.tokens.get(owner):
            request.add_header("Authorization", f"Bearer {self.tokens[owner]}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def get(self, id, owner):
        """Return the answer about a prediction, asked once; its body only if it is one."""
        if (id, owner) not in self._answers:
            status, body = self.fetch(f"/v1/predictions/{id}", owner)
            self._answers[id, owner] = status, json.loads(body) if status == 200 else None
        return self._answers[id, owner]

    def download(self, url):
        """Fetch an address as clients do, without a token; the server may have another port since it was given."""
        parts = urlsplit(url)
        return self.fetch(f"{parts.path}?{parts.query}")

    def list(self, owner):
        """Return the ids of all pages, and their text."""
        path, ids, texts = "/v1/predictions", [], []
        while path:
            status, body = self.fetch(path, owner)
            if status != 200:
                raise SystemExit(f"GET {path} for {owner} answers {status}")
            page = json.loads(body)
            ids += [prediction["id"] for prediction in page["results"]]
            texts.append(body.decode())
            path = page["next"] and page["next"].removeprefix(self.url)
        return ids, "".join(texts)


def whole_lines(path):
    """Return a log's lines; the last may have been cut by a kill, before its client acted on it."""
    return [line for line in path.read_bytes().split(b"\n")[:-1] if line]


def names_of(status):
    """Return what a state is called in the database, and to clients."""
    return status, SHOWN.get(status, status)


def by_prediction(rows):
    found = defaultdict(list)
    for row in rows:
        found[row["prediction"]].append(row)
    return found


def workers_of(data):
    """Return the worker processes of a data folder."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (folder / "cmdline").read_bytes()
            ended = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            if b"masklet.server.worker" in arguments and str(data.resolve()).encode() in arguments and not ended:
                found.add(int(folder.name))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--acks", type=Path, required=True)
    parser.add_argument("--url")
    parser.add_argument("--token", action="append", default=[], help="OWNER=TOKEN")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--running", type=int, nargs="*", default=[])
    given = parser.parse_args()
    api = None if given.url is None else Api(given.url, dict(pair.split("=", 1) for pair in given.token))
    checker = Checker(given.data, given.acks, api=api, kills=given.kills, running=given.running)
    violations = checker.run()
    sys.stdout.writelines(f"{line}\n" for line in violations)
    status = {name: len(checker.with_status(name)) for name in FINAL}
    told = ", ".join(f"{len(checker.done(did))} {what}" for did, what in TOLD.items())
    sys.stderr.write(f"checked {told} that clients know of against {len(checker.rows)} predictions {status}\n")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
