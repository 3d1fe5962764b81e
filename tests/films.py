"""Odd films, made by PyAV or by patching bytes, whose pictures carry their own number: a shift shows in the pixels."""

import io
import os
import struct
from dataclasses import dataclass, field, replace
from fractions import Fraction

os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder talks

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

HEIGHT, WIDTH = 64, 96
FRAMES = 24
PATCH_COLOUR = (200, 60, 40)
_BITS = 8
_DARK, _LIGHT, _GROUND = 30, 220, 120


def picture(number, height=HEIGHT, width=WIDTH):
    """Draw a number as eight dark or light fields along the top, over grey with a patch of `PATCH_COLOUR`.

    Beside the patch a texture drifts and changes, so that each picture leans on those before it and is like no other.
    """
    rgb = np.full((height, width, 3), _GROUND, np.uint8)
    texture = np.roll(np.random.default_rng(0).integers(60, 180, (height // 3, width // 3)), 3 * number, axis=1)
    texture[:8] = np.random.default_rng(number).integers(60, 180, (8, width // 3))
    rgb[height // 2 : height // 2 + len(texture), : texture.shape[1]] = texture[:, :, None]
    for bit in range(_BITS):
        rgb[: height // 4, bit * width // _BITS : (bit + 1) * width // _BITS] = _LIGHT if number >> bit & 1 else _DARK
    top, bottom, left, right = patch_edges(height, width)
    rgb[top:bottom, left:right] = PATCH_COLOUR
    return rgb


def patch_edges(height=HEIGHT, width=WIDTH):
    """Return the patch's top, bottom, left and right: in the lower right quarter, so that every turn moves it."""
    return height // 2, height - height // 8, width // 2, width - width // 8


def number_in(rgb):
    """Read the number of a picture back."""
    height, width = rgb.shape[:2]
    row = rgb[height // 16 : height // 6].mean(axis=(0, 2))
    fields = [row[bit * width // _BITS + 2 : (bit + 1) * width // _BITS - 2].mean() for bit in range(_BITS)]
    return sum(int(level > (_DARK + _LIGHT) / 2) << bit for bit, level in enumerate(fields))


def patch_in(rgb):
    """Return the mean colour of the patch, away from its edges."""
    top, bottom, left, right = patch_edges(*rgb.shape[:2])
    return rgb[top + 4 : bottom - 4, left + 4 : right - 4].reshape(-1, 3).mean(axis=0)


@dataclass(frozen=True)
class Kind:
    """How a film is coded and packed."""

    suffix: str
    codec: str
    pix_fmt: str = "yuv420p"
    options: dict = field(default_factory=dict)
    """The encoder's."""
    muxer: dict = field(default_factory=dict)
    rate: int = 10
    """Frames a second; MPEG-2 knows a few rates only."""

    def __str__(self):
        return f"{self.codec} in {self.suffix}"

    def to(self, suffix, **muxer):
        return replace(self, suffix=suffix, muxer=muxer)


H264 = Kind("mp4", "libx264", options={"g": "8", "bf": "2", "preset": "ultrafast", "crf": "12"})
_X265 = "keyint=8:bframes=2:log-level=none:pools=1:frame-threads=1"
HEVC = Kind("mp4", "libx265", options={"preset": "ultrafast", "x265-params": _X265})
VP9 = Kind("webm", "libvpx-vp9", options={"g": "8", "cpu-used": "8", "lag-in-frames": "8", "auto-alt-ref": "1"})
AV1 = Kind("mkv", "libsvtav1", options={"g": "8", "preset": "11", "svtav1-params": "lp=1"})
MPEG4 = Kind("avi", "mpeg4", options={"g": "8", "bf": "2", "b": "2000000"})
MPEG2 = Kind("ts", "mpeg2video", options={"g": "8", "bf": "2"}, rate=25)
MJPEG = Kind("avi", "mjpeg", pix_fmt="yuvj420p")

KINDS = {
    "H.264 in MP4": H264,
    "H.264 in fragmented MP4": H264.to("mp4", movflags="frag_keyframe+empty_moov"),
    "H.264 in MKV": H264.to("mkv"),
    "H.264 in TS": H264.to("ts"),
    "H.264 in AVI": H264.to("avi"),
    "H.264 in FLV": H264.to("flv"),
    "H.264 with intra refresh": replace(H264, options=H264.options | {"bf": "0", "x264-params": "intra-refresh=1"}),
    "HEVC in MP4": HEVC,
    "HEVC in TS": HEVC.to("ts"),
    "VP9 in WebM": VP9,
    "VP9 in WebM from a browser": VP9.to("webm", live="1"),
    "VP9 in MP4": VP9.to("mp4"),
    "VP8 in WebM": Kind(
        "webm", "libvpx", options={"g": "8", "cpu-used": "8", "lag-in-frames": "8", "auto-alt-ref": "1"}
    ),
    "AV1 in MKV": AV1,
    "AV1 in MP4": AV1.to("mp4"),
    "MPEG-4 in AVI": MPEG4,
    "MPEG-4 in MP4": MPEG4.to("mp4"),
    "MPEG-2 in TS": MPEG2,
    "MPEG-2 in a program stream": MPEG2.to("mpg"),
    "Motion JPEG in AVI": MJPEG,
    "Motion JPEG in MOV": MJPEG.to("mov"),
    "GIF": Kind("gif", "gif", pix_fmt="rgb8"),
    "ProRes in MOV": Kind("mov", "prores_ks", pix_fmt="yuv422p10le"),
    "FFV1 in MKV": Kind("mkv", "ffv1"),
    "WMV": Kind("wmv", "wmv2", options={"b": "2000000"}),
    "FLV": Kind("flv", "flv", options={"b": "2000000"}),
    "Animation (QuickTime RLE)": Kind("mov", "qtrle", pix_fmt="rgb24"),
    "raw AVI": Kind("avi", "rawvideo"),
}


def write_film(
    path,
    kind=H264,
    *,
    pictures=None,
    pts=None,
    time_base=None,
    tags=None,
    sar=None,
    sound=None,
    metadata=None,
):
    """Write pictures (default: `FRAMES` numbered ones) at time stamps (default: one tick apart); return the path.

    `tags` are attributes of the encoder such as `color_range`; with a `colorspace` the pixels are made by it.
    """
    pictures = [picture(number) for number in range(FRAMES)] if pictures is None else pictures
    pts = range(len(pictures)) if pts is None else pts
    time_base = time_base or Fraction(1, kind.rate)
    tags = tags or {}
    with av.open(str(path), "w", options=kind.muxer) as film:
        film.metadata.update(metadata or {})
        stream = film.add_stream(kind.codec, rate=kind.rate, options=kind.options)
        stream.height, stream.width = pictures[0].shape[:2] if pictures else (HEIGHT, WIDTH)
        stream.pix_fmt = kind.pix_fmt
        stream.codec_context.time_base = time_base
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        track = add_sound(film, sound) if sound else None
        if not pictures:
            film.start_encoding()
        for rgb, stamp in zip(pictures, pts, strict=True):
            frame = _coded(rgb, kind.pix_fmt, tags)
            frame.pts, frame.time_base = stamp, time_base
            film.mux(stream.encode(frame))
        if pictures:
            film.mux(stream.encode(None))
        if track is not None:
            mux_sound(film, track, sound)
    return path


def _coded(rgb, pix_fmt, tags):
    """Convert colours as the tags say: matrix BT.601 unless told, limited range unless told."""
    source = "rgb24" if rgb.shape[2] == 3 else "rgba"
    if pix_fmt in ("rgb24", "rgba", "pal8", "gbrp"):
        return av.VideoFrame.from_ndarray(rgb, format=source).reformat(format=pix_fmt)
    matrix = {1: Colorspace.ITU709, 9: 9}.get(
        tags.get("colorspace"), Colorspace.ITU601
    )  # 9: BT.2020, nameless in PyAV 17
    return av.VideoFrame.from_ndarray(rgb, format=source).reformat(
        format=pix_fmt,
        src_color_range=ColorRange.JPEG,
        dst_color_range=tags.get("color_range", ColorRange.JPEG if pix_fmt.startswith("yuvj") else ColorRange.MPEG),
        dst_colorspace=matrix,
    )


@dataclass(frozen=True)
class Sound:
    """A tone."""

    codec: str = "aac"
    rate: int = 48000
    layout: str = "stereo"
    seconds: float = 2.4
    start: float = 0.0
    """Seconds after the pictures' first."""


def add_sound(film, sound):
    track = film.add_stream(sound.codec, rate=sound.rate, layout=sound.layout)
    track.options = {"strict": "experimental"}  # for FFmpeg's own Vorbis
    return track


def mux_sound(film, track, sound):
    samples = np.arange(round(sound.seconds * sound.rate))
    tone = (8000 * np.sin(samples * 2 * np.pi * 440 / sound.rate)).astype(np.int16)
    channels = track.layout.nb_channels
    for start in range(0, len(tone), 1024):
        part = tone[start : start + 1024]
        frame = av.AudioFrame.from_ndarray(np.repeat(part, channels)[None], format="s16", layout=sound.layout)
        frame.sample_rate, frame.time_base = sound.rate, Fraction(1, sound.rate)
        frame.pts = round(sound.start * sound.rate) + start
        film.mux(track.encode(frame))
    film.mux(track.encode(None))


def patched(path, old, new):
    """Replace bytes of one length in a file, which must hold them."""
    data = path.read_bytes()
    assert len(old) == len(new) and old in data
    path.write_bytes(data.replace(old, new))
    return path


def turn(path, a, b, c, d):
    """Give the first track of an MP4 the display matrix [[a, b], [c, d]]."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    assert data[at : at + 36] == upright
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def cut_to(path, first_tick, ticks):
    """Let an MP4's edit list show only `ticks` units of the movie's clock, from a media time on; return the path."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 4
    version, count = data[at], struct.unpack(">I", data[at + 4 : at + 8])[0]
    assert (version, count) == (0, 1), "made for what FFmpeg writes"
    data[at + 8 : at + 16] = struct.pack(">Ii", ticks, first_tick)
    path.write_bytes(data)
    return path


def destroyed(path, number, fill=0xFF):
    """Overwrite the content of one of a film's packets, counted as they lie in the file; return the path."""
    with av.open(str(path)) as film:
        packets = [bytes(packet) for packet in film.demux(film.streams.video[0]) if packet.size]
    lost = packets[number]
    data = path.read_bytes()
    assert data.count(lost) == 1
    path.write_bytes(data.replace(lost, bytes([fill]) * len(lost)))
    return path


def scratched(path, number, fill=0x55):
    """Overwrite the second half of one of a film's packets, as a bad disk or a bad line would; return the path."""
    with av.open(str(path)) as film:
        packets = [(packet.pos, bytes(packet)) for packet in film.demux(film.streams.video[0]) if packet.size]
    (start, content), (end, _) = packets[number : number + 2]
    data = bytearray(path.read_bytes())
    if path.suffix == ".ts":  # leave alone what frames the stream, and the first part with the picture's time
        for at in range(start // 188 * 188 + 188, end // 188 * 188, 188):
            if data[at + 1] & 0x1F == 1 and data[at + 2] == 0 and not data[at + 3] & 0x20:
                data[at + 40 : at + 188] = bytes([fill]) * 148
    else:
        at, half = data.index(content), len(content) // 2
        data[at + half : at + len(content)] = bytes([fill]) * (len(content) - half)
    assert data != path.read_bytes()
    path.write_bytes(data)
    return path


def write_sound(path, sound, *, cover=None):
    """Write a tone without a film, and with a picture as its cover."""
    with av.open(str(path), "w") as film:
        track = add_sound(film, sound)
        if cover is not None:
            stream = film.add_stream("mjpeg", rate=1)
            stream.height, stream.width, stream.pix_fmt = *cover.shape[:2], "yuvj420p"
            stream.disposition = Disposition.attached_pic
            film.mux(stream.encode(_coded(cover, "yuvj420p", {})))
            film.mux(stream.encode(None))
        mux_sound(film, track, sound)
    return path


def write_tiled_photo(path, tile=64):
    """Write an AVIF of two by two tiles, as telephones do, from four that Pillow encodes; return the path."""

    def box(kind, content, version=None):
        head = b"" if version is None else struct.pack(">I", version << 24)
        return struct.pack(">I4s", 8 + len(head) + len(content), kind) + head + content

    def part(data, *kinds):
        at = data.index(kinds[0]) - 4
        inner = data[at : at + int.from_bytes(data[at : at + 4], "big")]
        return part(inner[8:], *kinds[1:]) if kinds[1:] else inner

    stills = []
    for level in (50, 100, 150, 200):
        still = io.BytesIO()
        Image.new("RGB", (tile, tile), (level, 0, 0)).save(still, "AVIF")
        stills.append(still.getvalue())
    tiles = [part(still, b"mdat")[8:] for still in stills]
    grid = struct.pack(">BBBBHH", 0, 0, 1, 1, 2 * tile, 2 * tile)
    sizes = [box(b"ispe", struct.pack(">II", n, n), 0) for n in (2 * tile, tile)]
    owned = struct.pack(">IHBB", 5, 1, 1, 1) + b"".join(struct.pack(">HBBB", 2 + i, 2, 2, 0x83) for i in range(4))
    shown = box(b"ipco", b"".join(sizes) + part(stills[0], b"av1C")) + box(b"ipma", owned, 0)
    items = [(1, b"grid", 0), *((2 + i, b"av01", 1) for i in range(4))]
    names = b"".join(box(b"infe", struct.pack(">HH4sx", i, 0, kind), 2) for i, kind, _ in items)

    def meta(start):
        places = struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(grid))
        for i, data in enumerate(tiles):
            places += struct.pack(">HHHHII", 2 + i, 0, 0, 1, start, len(data))
            start += len(data)
        content = box(b"hdlr", struct.pack(">I4s13x", 0, b"pict"), 0) + box(b"pitm", struct.pack(">H", 1), 0)
        content += box(b"iloc", struct.pack(">BBH", 0x44, 0, 5) + places, 1)
        content += box(b"iinf", struct.pack(">H", 5) + names, 0)
        content += box(b"iref", box(b"dimg", struct.pack(">HH4H", 1, 4, 2, 3, 4, 5)), 0)
        return box(b"meta", content + box(b"iprp", shown) + box(b"idat", grid), 0)

    kind = part(stills[0], b"ftyp")
    path.write_bytes(kind + meta(len(kind) + len(meta(0)) + 8) + box(b"mdat", b"".join(tiles)))
    return path
