"""Where a video comes from, as a request names it: an address, an upload of this server, or a data: URI."""

import base64
import binascii
import re
from collections.abc import Collection
from urllib.parse import unquote_to_bytes, urlsplit

from masklet.server.problems import InvalidField, Refusal, invalid_input, too_large

FILE_PATH = re.compile(r"/v1/files/([a-z0-9]{26})(?:/download)?")
LONGEST_ADDRESS = 8_000
"""Characters. Every answer about a prediction repeats its input, and a page of a list that of a hundred."""


def is_data(value: str) -> bool:
    """Tell whether a value is a data: URI."""
    return value[:5].lower() == "data:"


def own_upload(value: str, base: str, names: Collection[str], port: int) -> str | None:
    """Return the id of the upload that an address of this server means, under any of the server's names.

    Clients upload a file and put its address into the input; fetching that would give its description, not the file.
    """
    there, here = urlsplit(value), urlsplit(base)
    own = FILE_PATH.fullmatch(there.path)
    if own is None or not _is_http(base):  # the port in a Host header may be none
        return None
    same = there.netloc.lower() == here.netloc.lower()
    if not same and not (there.hostname in names and (there.port or 80) in (port, here.port)):
        return None
    return own[1]


def check_source(value: str) -> InvalidField | None:
    """Say what is wrong with the address of a video."""
    if is_data(value):
        return None
    if len(value) > LONGEST_ADDRESS:
        wrong = f"the address has {len(value)} characters, and the limit is {LONGEST_ADDRESS}"
        return InvalidField("string_lte", "input.input_video", f"{wrong}: upload the video to /v1/files instead")
    if _is_http(value):
        return None
    return InvalidField(
        "format", "input.input_video", "give an https URL, a data: URI, or the address of a file from /v1/files"
    )


def read_data_uri(uri: str, most_bytes: int) -> tuple[str, bytes]:
    """Return the type and content of a data: URI; raises `Refusal`."""
    head, comma, body = uri[5:].partition(",")
    if not comma:
        raise _bad_data("it has no comma between its type and its content")
    kind, *parameters = head.split(";")
    # Of four characters come three bytes; so nothing over the limit is decoded.
    if len(body) > most_bytes * 4 // 3 + 4:
        raise too_large("The file in the data: URI", most_bytes, "Upload it to /v1/files and give its address.")
    try:
        data = base64.b64decode(body, validate=True) if "base64" in parameters else unquote_to_bytes(body)
    except (binascii.Error, ValueError):
        raise _bad_data("its content is not base64") from None
    if not data:
        raise _bad_data("it is empty")
    return kind[:100] or "text/plain", data


def as_data_uri(content_type: str, data: bytes) -> str:
    """Return a file as a data: URI."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def _bad_data(why: str) -> Refusal:
    return invalid_input([InvalidField("format", "input.input_video", f"the data: URI cannot be read: {why}")])


def _is_http(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def check_webhook(url: str | None) -> InvalidField | None:
    """Say what is wrong with a webhook's address."""
    if url is None or _is_http(url):
        return None
    return InvalidField("format", "webhook", "webhook must be an https URL")
