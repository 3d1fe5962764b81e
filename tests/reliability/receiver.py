"""Takes webhooks, and notes each on the disk before it says so."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from standardwebhooks import Webhook, WebhookVerificationError

from reliability.acks import Acks, heard
from reliability.checker import FINAL


@contextmanager
def answering(handler):
    """Run an HTTP server on this machine while the block lasts; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def receiving(log, keys=None):
    """Run a receiver while the block lasts; yields its address.

    `keys`: for the last part of an address, the secret that what comes there must be signed with.
    """
    acks = Acks(log)

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            key = (keys or {}).get(self.path.rpartition("/")[2])
            status = 200 if key is None or is_signed(key, body, self.headers) else 401
            if status == 200:
                said = json.loads(body)
                # The service's own webhooks hold the prediction as it was then, and no name for what happened.
                kind = said.get("kind", "completed" if said["status"] in FINAL else "start")
                heard(acks, self.headers["webhook-id"], said["id"], kind, said["status"])
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *parts):
            """Say nothing."""

    try:
        with answering(Receiver) as url:
            yield f"{url}/hook"
    finally:
        acks.close()


def is_signed(key, body, headers):
    """Say whether the owner who has this key would believe it."""
    try:
        Webhook(key).verify(body, dict(headers))
    except WebhookVerificationError:
        return False
    return True
