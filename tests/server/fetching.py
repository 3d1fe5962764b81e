"""Servers that misbehave in one way each, and a canary that counts who comes."""

import socket
import ssl
import struct
from contextlib import contextmanager
from threading import Event, Thread

from server.serving import CERT, KEY


class Raw:
    """A server that gives each connection to a function, with the head of what was asked."""

    def __init__(self, answer, host="127.0.0.1", tls=False):
        self.answer, self.heads, self.names = answer, [], []
        self.over = Event()
        self.context = None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(CERT, KEY)
            self.context.sni_callback = lambda plug, name, context: self.names.append(name)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, 0), family=family)
        self.port = self.listener.getsockname()[1]
        self.threads = [Thread(target=self._listen, daemon=True)]
        self.threads[0].start()

    def _listen(self):
        while True:
            try:
                plug, _ = self.listener.accept()
            except OSError:
                return
            thread = Thread(target=self._serve, args=(plug,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def _serve(self, plug):
        with plug:
            try:
                plug.settimeout(5)
                if self.context is not None:
                    plug = self.context.wrap_socket(plug, server_side=True)
                head = b""
                while b"\r\n\r\n" not in head and (more := plug.recv(65_536)):
                    head += more
                self.heads.append(head.decode("latin-1"))
                self.answer(self, plug)
            except OSError:
                pass
            finally:
                plug.close()

    def close(self):
        self.over.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(6)


@contextmanager
def raw(answer, **more):
    server = Raw(answer, **more)
    try:
        yield server
    finally:
        server.close()


def replies(status, body=b"", **headers):
    """Return a head and a body as bytes; `content_length` and the like become headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("content-length", len(body))
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in named.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode() + body


def says(data):
    """Return an answer that sends some bytes."""
    return lambda server, plug: plug.sendall(data)


def says_nothing(server, plug):
    server.over.wait(10)


def drips(data=b"x"):
    """Return an answer that sends a byte now and then, and never ends."""

    def answer(server, plug):
        while not server.over.wait(0.05):
            plug.sendall(data)

    return answer


def begins(head, then):
    def answer(server, plug):
        plug.sendall(head)
        then(server, plug)

    return answer


def endless(server, plug):
    while not server.over.is_set():
        plug.sendall(bytes(65_536))


def resets(server, plug):
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
