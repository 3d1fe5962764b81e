"""From packets to pictures, as far as they are whole, and from pictures to pixels.

A picture counts only if it is whole: where one is lost, or the decoder mended it by guesswork, `Damage` is raised. What
a decoder does not notice (a few flipped bits, in most codecs) cannot be noticed here. Pictures before the first whole
one are passed over: recordings begin anywhere.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import cast

import av
import numpy as np
from av import Packet, VideoFrame
from av.buffer import Buffer
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.frame import PictureType
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

MOST_LEANING = 4
"""B-pictures in a row that wait for the picture they lean on; encoders use 3, and some code nothing but B-pictures."""
UNTAGGED = 2
"""ITU-T H.273's number for a colour matrix that nobody stated."""
HD_HEIGHT = 720
"""From here on, pictures without a colour tag are BT.709, as players take them; below, BT.601."""


class Damage(Exception):
    """Here a picture is missing or not whole; what comes after it is not to be trusted."""


def whole_pictures(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode in display order, from the first whole picture on; raise `Damage` at one that is not."""
    begun = False
    for packet in packets_of(container, stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            if begun:
                yield from _finished(stream, packet)
                raise Damage from None
            continue
        for frame in frames:
            if frame.is_corrupt and begun:
                raise Damage
            if not frame.is_corrupt:
                begun = True
                yield frame


def packets_of(container: InputContainer, stream: VideoStream) -> "Iterator[Packet[VideoStream]]":
    """Read a film's packets; raise `Damage` where what frames them is broken."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        raise Damage from None


def _finished(stream: VideoStream, lost: "Packet[VideoStream]") -> Iterator[VideoFrame]:
    """Yield what the decoder still holds from before a packet that it could not decode."""
    with suppress(av.error.FFmpegError):
        for frame in stream.decode(None):
            if frame.is_corrupt or frame.pts is None or lost.pts is None or frame.pts >= lost.pts:
                return
            yield frame


def steady(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Hold back B-pictures until the picture after them has come whole: what they lean on may be that one."""
    waiting: deque[VideoFrame] = deque()
    for frame in frames:
        waiting.append(frame)
        if frame.pict_type != PictureType.B:
            yield from _drained(waiting)
        elif len(waiting) > MOST_LEANING:
            yield waiting.popleft()
    yield from _drained(waiting)


def _drained(waiting: deque[VideoFrame]) -> Iterator[VideoFrame]:
    while waiting:
        yield waiting.popleft()


def goes_on(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the film has more packets from here."""
    try:
        return any(packet.size for packet in container.demux(stream))
    except av.error.FFmpegError:
        return True


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Return how a picture is to be shown: quarter turns counterclockwise, then whether upside down."""
    turns = round(frame.rotation / 90) % 4
    with suppress(KeyError, ValueError):  # none; or other facts beside it of a type that PyAV does not know
        facts = cast("Mapping[Type, Buffer]", frame.side_data)
        a, b, _, c, d, *_ = np.frombuffer(bytes(facts[Type.DISPLAYMATRIX]), np.int32).tolist()
        if a * d < b * c:  # a mirror; the angle is read off the first row, which it turned round
            return -turns % 4, True
    return turns, False


def rgb_of(frame: VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """Return the pixels as stored, colours by the frame's own matrix."""
    untagged = frame.colorspace == UNTAGGED
    matrix = Colorspace.ITU709 if untagged and frame.height >= HD_HEIGHT else None
    return reformatter.reformat(frame, format="rgb24", src_colorspace=matrix).to_ndarray().astype(np.uint8, copy=False)
