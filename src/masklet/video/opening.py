"""Opening film files safely: FFmpeg gets an open file, never a name, and lists of what it may use.

With no protocol at all, a playlist or a description in disguise has nothing to open other files or connections with.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.codec.context import CodecContext
from av.container import InputContainer

from masklet.errors import BadVideo

CONTAINERS = "mov,mp4,matroska,webm,avi,gif,mpegts,mpeg,flv,asf,ogg"
CODECS = (
    "h264,hevc,vp8,vp9,av1,libdav1d,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v2,msmpeg4,mjpeg,prores,"
    "dnxhd,gif,ffv1,theora,wmv1,wmv2,wmv3,vc1,flv,h263,png,qtrle,rawvideo,huffyuv,utvideo,"
    "aac,mp3,mp3float,mp2,mp2float,ac3,eac3,opus,libopus,vorbis,flac,alac,pcm_s16le,pcm_s16be,pcm_s24le,pcm_f32le,"
    "pcm_u8,pcm_alaw,pcm_mulaw,wmav2"
)
OPTIONS = {"format_whitelist": CONTAINERS, "codec_whitelist": CODECS, "protocol_whitelist": "none"}
READ_AHEAD_BYTES = 2**20
LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""A title in an old encoding is no reason to refuse a film; from 19 on, PyAV thinks so too."""
READABLE = "MP4, MOV, MKV, WebM, AVI, GIF, MPEG, FLV, WMV or Ogg with a common codec"

logging.getLogger("libav").setLevel(logging.CRITICAL)  # what matters is raised


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Open a film file, and say in our words what FFmpeg has against it, then or in the block."""
    try:
        with (
            path.open("rb") as file,
            av.open(file, "r", buffer_size=READ_AHEAD_BYTES, options=OPTIONS, **LENIENT) as container,
        ):
            yield container
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise BadVideo(f"{path} is not a video, or is cut short or damaged: masklet reads {READABLE}") from error
    except av.error.FFmpegError as error:
        raise BadVideo(
            f"{path} is of a kind that masklet does not open ({error.strerror}): convert it to {READABLE}"
        ) from error
    except OSError as error:
        raise BadVideo(f"{path} cannot be read any more ({error.strerror or error})") from error


def sound_of(container: InputContainer) -> AudioStream | None:
    """Return the first sound track that masklet reads."""
    return next((track for track in container.streams.audio if allowed(track.codec_context)), None)


def fraction(rate: Fraction | None) -> Fraction | None:
    """PyAV 19 gives a type of its own, which is false when unset."""
    return Fraction(rate.numerator, rate.denominator) if rate else None


def allowed(coder: CodecContext | None) -> bool:
    """Whether a decoder is on the list: FFmpeg's own check binds its probing only."""
    return coder is not None and coder.codec.name in CODECS.split(",")
