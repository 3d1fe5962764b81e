"""Uploads as `multipart/form-data`, read while they arrive: the one large part goes to disk, the others are small.

Starlette's form reader would spool whatever a stranger sends; here every part is counted, and there are few.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from masklet.files import refusals
from masklet.server.bodies import read_json
from masklet.server.problems import InvalidField, Refusal, invalid_input, too_large

CONTENT = "content"
"""Name of the part that is the file."""
MOST_PARTS = 40
SMALL_PART_BYTES = 64_000
NAME_CHARACTERS = 255
UNKNOWN_TYPE = "application/octet-stream"
WRITE_BYTES = 2**20
"""So much is gathered before a thread writes it: one hop a chunk would cost more than the writing."""


@dataclass
class Received:
    """What an upload brought."""

    name: str
    content_type: str
    metadata: dict[str, Any]


@dataclass
class _Part:
    name: str = ""
    filename: str | None = None
    content_type: str = ""
    text: bytearray = field(default_factory=bytearray)
    size: int = 0


async def receive_upload(chunks: AsyncIterator[bytes], content_type: str, path: Path, most_bytes: int) -> Received:
    """Write the `content` part of a body to `path`; raises `Refusal` for anything but a whole, valid upload."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Refusal(415, "Send the file as multipart/form-data with a part named 'content'.")
    with refusals(path):
        file = await run_in_threadpool(open, path, "xb")
    with file:
        reader = _Reader(most_bytes)
        parser = MultipartParser(options[b"boundary"], reader.callbacks())
        try:
            async for chunk in chunks:
                parser.write(chunk)
                await _drain(reader, file, path, WRITE_BYTES)
        except FormParserError:
            raise Refusal(400, "The multipart body is malformed.") from None
        await _drain(reader, file, path, 1)
    return reader.result()


async def _drain(reader: "_Reader", file: BinaryIO, path: Path, least: int) -> None:
    if len(reader.pending) < least:
        return
    data = bytes(reader.pending)
    reader.pending.clear()
    with refusals(path):
        await run_in_threadpool(file.write, data)


class _Reader:
    """Hears the parser, and keeps what matters."""

    def __init__(self, most_bytes: int) -> None:
        self.pending = bytearray()
        """Bytes of the file that are not yet written."""
        self._most_bytes = most_bytes
        self._parts: list[_Part] = []
        self._header = b""
        self._value = b""
        self._whole = False

    def callbacks(self) -> Any:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def result(self) -> Received:
        """Return what came, once the body is over."""
        content = next((part for part in self._parts if part.name == CONTENT), None)
        if content is None:
            raise invalid_input([InvalidField("required", CONTENT, "content is required")])
        if not self._whole:
            raise Refusal(400, "The multipart body ends too early. Send the file again.")
        if not content.size:
            raise invalid_input([InvalidField("format", CONTENT, "the file is empty")])
        texts = {part.name: bytes(part.text) for part in self._parts if part.name != CONTENT}
        return Received(
            name=_shown(_text(texts.get("filename")) or content.filename or "file"),
            content_type=_shown(_text(texts.get("type")) or content.content_type or UNKNOWN_TYPE),
            metadata=_metadata(texts.get("metadata")) | _spread_out(texts),
        )

    def _begin(self) -> None:
        if len(self._parts) == MOST_PARTS:
            raise Refusal(400, f"The body has more than {MOST_PARTS} parts. Send one file at a time.")
        self._parts.append(_Part())

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        part, header, value = self._parts[-1], self._header.lower(), self._value
        self._header = self._value = b""
        if header == b"content-type":
            part.content_type = value.decode("utf-8", "replace")
        elif header == b"content-disposition":
            _, options = parse_options_header(value)
            part.name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                part.filename = options[b"filename"].decode("utf-8", "replace")
            if part.name == CONTENT and any(part.name == CONTENT for part in self._parts[:-1]):
                raise Refusal(400, "The body has two parts named 'content'. Send one file at a time.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._parts[-1]
        part.size += end - start
        if part.name == CONTENT:
            if part.size > self._most_bytes:
                raise too_large("The file", self._most_bytes, "Send a shorter or smaller video.")
            self.pending += data[start:end]
        else:
            if part.size > SMALL_PART_BYTES:
                raise too_large(f"The part {_shown(part.name)!r}", SMALL_PART_BYTES)
            part.text += data[start:end]

    def _end(self) -> None:
        self._whole = True


def _metadata(text: bytes | None) -> dict[str, Any]:
    if not text:
        return {}
    value = read_json(text)
    if not isinstance(value, dict):
        raise invalid_input([InvalidField("invalid_type", "metadata", "metadata must be a JSON object")])
    return value


def _spread_out(texts: dict[str, bytes]) -> dict[str, str]:
    """Gather `metadata[NAME]`: the Python client 2 sends each entry as a part of its own, as text."""
    return {
        name[len("metadata[") : -1]: _text(text)
        for name, text in texts.items()
        if name.startswith("metadata[") and name.endswith("]")
    }


def _text(value: bytes | None) -> str:
    return value.decode("utf-8", "replace") if value else ""


def _shown(text: str) -> str:
    """Return text that is safe to show: it never becomes a path or a header."""
    return "".join(character for character in text if character.isprintable())[:NAME_CHARACTERS]
