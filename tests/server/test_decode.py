"""Strangers' videos, opened apart: the same pixels as ever, and no file that can hurt whoever asked for them."""

import json
import os
import re
import struct
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from films import AV1, FRAMES, H264, HEIGHT, KINDS, MPEG4, VP9, WIDTH, Sound, picture, write_film, write_sound
from PIL import Image

from masklet.jobs import ERROR_CODES
from masklet.server import decode
from masklet.server.decode import PROGRAM, open_apart, sandbox
from masklet.server.duty import Intake
from masklet.server.failures import JobFailure
from masklet.video import open_video
from server.fetching import raw, replies, says

GONE_S = 2.0


@pytest.fixture(params=["bubblewrap", "limits only"])
def locked(request, monkeypatch):
    """Decode in each kind of sandbox that this machine has."""
    if request.param == "limits only":
        monkeypatch.setattr(decode, "sandbox", lambda: "limits only")
    elif sandbox() != "bubblewrap":
        pytest.skip("bubblewrap does not work on this machine")
    return request.param


@pytest.fixture(autouse=True)
def no_process_stays(tmp_path):
    yield
    until = time.monotonic() + GONE_S
    while left := processes_about(tmp_path):
        assert time.monotonic() < until, left
        time.sleep(0.05)


def processes_about(path):
    """Return the processes that know a folder by their command, but this one."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        said = " ".join(process.info["cmdline"] or ())
        if str(path) in said and process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(said)
    return found


def refusal(path, intake=None, *, frames=None, **more):
    """Return the code and the words with which a video is refused, when opened or when read."""
    with (
        pytest.raises(JobFailure) as failure,
        open_apart(path, intake or Intake(), **more) as video,
    ):
        list(video.frames(0, frames))
    assert failure.value.code in ERROR_CODES
    return failure.value.code, str(failure.value)


# The same pixels


def same(path):
    with open_video(path) as here, open_apart(path, Intake()) as apart:
        assert (apart.height, apart.width, apart.frame_count) == (here.height, here.width, here.frame_count)
        assert (apart.time_base, apart.average_rate) == (here.time_base, here.average_rate)
        for a, b in zip(apart.frames(), here.frames(), strict=True):
            assert (a.index, a.pts, a.seconds) == (b.index, b.pts, b.seconds)
            assert np.array_equal(a.rgb, b.rgb)
    return True


@pytest.mark.parametrize(
    "kind", [H264, VP9, AV1, MPEG4, KINDS["GIF"], KINDS["H.264 in TS"], KINDS["ProRes in MOV"]], ids=str
)
def test_every_frame_is_the_one_that_would_be_read_here(tmp_path, kind):
    assert same(write_film(tmp_path / f"film.{kind.suffix}", kind))


def test_in_either_sandbox_they_are(tmp_path, locked):
    pts = [0, 3, 4, 9, 10, 30]
    film = write_film(tmp_path / "f.mp4", pictures=[picture(n) for n in range(6)], pts=pts, time_base=Fraction(1, 90))
    assert same(film)


def test_a_picture_is_a_video_too(tmp_path):
    Image.fromarray(picture(5)).save(tmp_path / "picture.png")
    assert same(tmp_path / "picture.png")


def test_several_may_read_at_once_in_any_order_and_stop_when_they_like(tmp_path):
    film = write_film(tmp_path / "f.mp4")
    with open_video(film) as here, open_apart(film, Intake()) as apart:
        expected = [frame.rgb for frame in here.frames()]
        forward, backward = apart.frames(2), apart.frames_backward(20, 3)
        for _ in range(5):
            for frame in (next(forward), next(backward), next(apart.frames_at([7]))):
                assert np.array_equal(frame.rgb, expected[frame.index])
        forward.close()
        assert [frame.index for frame in backward] == list(range(15, 2, -1))
        assert len(list(apart.frames(FRAMES - 1, FRAMES + 5))) == 1


def test_frames_may_be_changed_by_who_reads_them(tmp_path):
    with open_apart(write_film(tmp_path / "f.mp4"), Intake()) as video:
        first = next(video.frames())
        first.rgb[:] = 0
        assert next(video.frames()).rgb.any()


# What is refused


def text_file(path):
    path.write_text("A letter.\n" * 100)


def joined(path):
    """Put two transport streams of different sizes one after the other."""
    small, large = (write_film(path.with_name(name), KINDS["H.264 in TS"], pictures=pictures) for name, pictures in (
        ("small.ts", [picture(n) for n in range(9)]),
        ("large.ts", [picture(n, 2 * HEIGHT, 2 * WIDTH) for n in range(9)]),
    ))  # fmt: skip
    path.write_bytes(small.read_bytes() + large.read_bytes())


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "E_UNSUPPORTED_MEDIA"),
    "text": (text_file, "E_UNSUPPORTED_MEDIA"),
    "noise": (lambda path: path.write_bytes(np.random.default_rng(1).bytes(50_000)), "E_UNSUPPORTED_MEDIA"),
    "zeros": (lambda path: path.write_bytes(bytes(50_000)), "E_UNSUPPORTED_MEDIA"),
    "song.m4a": (lambda path: write_sound(path, Sound()), "E_NO_FRAMES"),
    "blank.mp4": (lambda path: write_film(path, pictures=[]), "E_NO_FRAMES"),
    "blank.avi": (lambda path: write_film(path, MPEG4, pictures=[]), "E_NO_FRAMES"),
    "cut.mp4": (lambda path: path.write_bytes(write_film(path).read_bytes()[:-500]), "E_UNSUPPORTED_MEDIA"),
    "joined.ts": (joined, "E_GEOMETRY_CHANGED"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_good_video_has_a_code_and_a_reason(tmp_path, name):
    make, code = BAD[name]
    make(tmp_path / name)
    found, text = refusal(tmp_path / name)
    assert found == code
    assert str(tmp_path / name) in text, "the worker puts 'the video' for this path"


# Too large


def huge_frame(path):
    with av.open(str(path), "w") as film:
        stream = film.add_stream(
            "libx264", rate=10, options={"preset": "ultrafast", "rc-lookahead": "0", "threads": "1"}
        )
        stream.height = stream.width = 8_192
        stream.pix_fmt = "yuv420p"
        film.mux(stream.encode(av.VideoFrame(8_192, 8_192, "yuv420p")))
        film.mux(stream.encode(None))


def many_frames(count):
    """Return what repeats one tiny key picture so often, which costs the sender nothing."""

    def make(path):
        kind = H264.to(path.suffix[1:])
        tiny = write_film(path.with_name(f"tiny{path.suffix}"), kind, pictures=[np.zeros((16, 16, 3), np.uint8)])
        with av.open(str(tiny)) as source, av.open(str(path), "w") as film:
            track = source.streams.video[0]
            stream = film.add_stream_from_template(track)
            packet = next(packet for packet in source.demux(track) if packet.size)
            data, step = bytes(packet), int(1 / (10 * track.time_base))
            for number in range(count):
                copy = av.Packet(data)
                copy.pts = copy.dts = number * step
                copy.time_base, copy.stream, copy.is_keyframe = track.time_base, stream, True
                film.mux(copy)

    return make


TEN_HOURS_S = 36_000


def lie_about_duration(path):
    """Let a Matroska file say that it lasts ten hours (of an MP4 nobody believes the header); return what it said."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3
    [ms] = struct.unpack(">d", data[at : at + 8])
    data[at : at + 8] = struct.pack(">d", TEN_HOURS_S * 1_000)
    path.write_bytes(data)
    return ms / 1_000


BOMBS = {"frame.mp4": huge_frame, "count.mp4": many_frames(200_000), "count.mkv": many_frames(200_000)}
MOST_IN_USE_BYTES = 400_000_000
# In a sandbox there is no /proc; outside of one, ru_maxrss is that of whoever started the process.
WEIGHED = """
def act(path, limits):
    import pathlib, resource
    from masklet.errors import BadVideo
    try:
        return decoder.open_checked(path, limits)
    except BadVideo as error:
        status = pathlib.Path("/proc/self/status")
        if status.exists():
            most = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        else:
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        raise type(error)(f"{error} [{most} kB]")
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_of_a_huge_video_is_refused_soon_and_in_little_memory(tmp_path, locked, name):
    BOMBS[name](tmp_path / name)
    began = time.monotonic()
    code, text = refusal(tmp_path / name, Intake(decode_bytes=800_000_000), program=shim(tmp_path, WEIGHED))
    took = time.monotonic() - began
    assert (code, "limit" in text) == ("E_TOO_LARGE", True)
    most = int(re.search(r"\[(\d+) kB\]", text)[1]) * 1_024
    sys.stdout.write(f"{name}, {locked}: refused after {took:.2f} s and {most / 1e6:.0f} MB\n")
    assert most < MOST_IN_USE_BYTES
    assert took < 30  # a bound for machines that do much else; alone it takes a second


@pytest.mark.parametrize("kind", [H264.to("mkv"), VP9], ids=str)
def test_a_duration_in_the_header_that_is_a_lie_changes_nothing(tmp_path, kind):
    film = write_film(tmp_path / f"film.{kind.suffix}", kind)
    true = lie_about_duration(film)
    with open_apart(film, Intake(most_s=60)) as video:
        assert video.frame_count == FRAMES
        assert len(list(video.frames())) == FRAMES
    assert true < 60 < TEN_HOURS_S
    with av.open(str(film)) as container:
        assert abs(container.duration / 1e6 - TEN_HOURS_S) < 1, "the lie is told"


def test_frames_that_must_be_decoded_to_be_counted_are_counted_meanwhile(tmp_path):
    many_frames(3_000)(tmp_path / "count.ts")
    code, text = refusal(tmp_path / "count.ts", Intake(most_frames=500))
    assert (code, "more frames than the limit, 500" in text) == ("E_TOO_LARGE", True)


@pytest.mark.parametrize(
    ("intake", "words"),
    [
        (Intake(most_pixels=HEIGHT * WIDTH - 1), f"{WIDTH}x{HEIGHT} pixels"),
        (Intake(most_frames=FRAMES - 1), "more frames"),
        (Intake(most_pixels_in_all=HEIGHT * WIDTH * FRAMES - 1), "pixels in all its frames"),
        (Intake(most_s=(FRAMES - 2) / 10), "seconds"),
    ],
    ids=["frame", "count", "all", "seconds"],
)
def test_each_limit_holds_from_just_beyond_it(tmp_path, intake, words):
    film = write_film(tmp_path / "f.mp4")
    code, text = refusal(film, intake)
    assert (code, words in text) == ("E_TOO_LARGE", True)
    just = Intake(
        most_pixels=HEIGHT * WIDTH,
        most_frames=FRAMES,
        most_pixels_in_all=HEIGHT * WIDTH * FRAMES,
        most_s=(FRAMES - 1) / 10,
    )
    with open_apart(film, just) as video:
        assert video.frame_count == FRAMES


# What reads other files, or calls others

HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
PLAYLISTS = {
    "HLS": HLS.format("http://127.0.0.1:{port}/a.ts"),
    "HLS of files": HLS.format("file://{folder}/sibling.ts"),
    "HLS of a neighbour": HLS.format("sibling.ts"),
    "concat": "ffconcat version 1.0\nfile sibling.ts\n",
    "concat of addresses": "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.ts'\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>http://127.0.0.1:{port}/a.mp4</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:{port}/a.png"/></svg>',
}
NAMES = ("a", "a.mp4", "a.m3u8", "a.mpd", "a.ffconcat", "a.ts", "a.mkv", "a.sdp")


@pytest.mark.parametrize("payload", PLAYLISTS)
def test_a_playlist_by_any_name_reaches_nothing(tmp_path, payload, monkeypatch):
    """Under limits only, where nothing but the whitelists protects; one name in bubblewrap, too."""
    write_film(tmp_path / "sibling.ts", KINDS["H.264 in TS"])
    with raw(says(replies(200, (tmp_path / "sibling.ts").read_bytes()))) as canary:
        for number, name in enumerate(NAMES):
            if number == 1:
                monkeypatch.setattr(decode, "sandbox", lambda: "limits only")
            (tmp_path / name).write_text(PLAYLISTS[payload].format(port=canary.port, folder=tmp_path))
            assert refusal(tmp_path / name)[0] == "E_UNSUPPORTED_MEDIA"
        assert canary.heads == []


# How it is locked in


def shim(tmp_path, body):
    """Return the decoder with `act(path, limits)` in place of opening; the rest of it is as ever."""
    # As text, since in bubblewrap there is no such file; the folder is named so that the process can be found by it.
    head = f"# {tmp_path}\nimport sys\nfrom masklet.server import decoder\nfrom masklet.errors import BadVideo\n"
    return (*PROGRAM[:3], "-c", f"{head}{body}\ndecoder.main(act)\n")


LOOK = """
def tried(what):
    try:
        return what()
    except OSError as error:
        return error.strerror or str(error)

NAMES = ("CORE", "FSIZE", "NOFILE", "CPU", "AS")

def act(path, limits):
    import json, os, resource, socket
    found = {
        "environment": sorted(os.environ),
        "neighbours": tried(lambda: os.listdir(SECRETS)),
        "secret": tried(lambda: open(SECRETS + "/secret").read()),
        "connect": tried(lambda: socket.create_connection(("127.0.0.1", PORT), 2) and "connected"),
        "write": tried(lambda: os.write(os.open(SPARE + "/dropped", os.O_CREAT | os.O_WRONLY), b"x")),
        "processes": len([name for name in os.listdir("/proc") if name.isdigit()]) if os.path.exists("/proc") else 0,
        "limits": [resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in NAMES],
        "cwd": os.getcwd(),
    }
    raise BadVideo(json.dumps(found))
"""


@pytest.fixture
def seen(tmp_path, locked, monkeypatch):
    """Return what the decoder's process sees of this machine."""
    monkeypatch.setenv("MASKLET_SECRET", "canary")
    (tmp_path / "secret").write_text("canary")
    film = write_film(tmp_path / "f.mp4")
    with raw(says(b"")) as canary:
        body = f"SECRETS, PORT, SPARE = {str(tmp_path)!r}, {canary.port}, '/tmp'\n{LOOK}"
        code, text = refusal(film, program=shim(tmp_path, body))
    assert code == "E_UNSUPPORTED_MEDIA"
    return json.loads(text)


def test_it_inherits_nothing_and_is_limited(seen):
    assert not [name for name in seen["environment"] if "MASKLET" in name or "TOKEN" in name or "HF_" in name]
    core, size, files, cpu, memory = seen["limits"]
    assert (core, size, files) == ([0, 0], [0, 0], [64, 64])
    assert (cpu[0], memory[1]) == (Intake().decode_cpu_s, Intake().decode_bytes)
    assert seen["write"] in ("File too large", "Read-only file system", "Permission denied")
    assert seen["cwd"] == "/"


def test_in_bubblewrap_there_is_no_network_no_neighbour_and_no_other_process(seen, locked):
    if locked == "bubblewrap":
        assert seen["neighbours"] == seen["secret"] == "No such file or directory"
        assert seen["connect"] in ("Connection refused", "Network is unreachable")
        assert seen["processes"] == 0
    else:  # what is claimed for limits only is no more than limits
        assert (seen["secret"], seen["connect"]) == ("canary", "connected")


def test_which_sandbox_there_is_is_found_out_by_trying(tmp_path, monkeypatch):
    tool = tmp_path / "bwrap"
    tool.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    tool.chmod(0o755)
    for found in (None, str(tool), str(tmp_path / "none")):
        monkeypatch.setattr(decode, "which", lambda name, found=found: found)
        sandbox.cache_clear()
        assert sandbox() == "limits only"
    monkeypatch.undo()
    sandbox.cache_clear()
    tool = decode.which("bwrap")
    works = tool and subprocess.run([tool, "--ro-bind", "/", "/", "--unshare-all", "true"]).returncode == 0
    assert sandbox() == ("bubblewrap" if works else "limits only")


# A decoder that breaks, or is taken over

DIES = {
    "segfaults": "import ctypes; ctypes.string_at(0)",
    "aborts": "import os; os.abort()",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "ends without a word": "import os; os._exit(0)",
    "fails": "raise RuntimeError('a mistake')",
}
HANGS = {
    "hangs": "import time; time.sleep(600)",
    "hangs deaf": "import signal, time\n    for n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n    time.sleep(600)",
    "forks": "import os, time\n    for _ in range(3): os.fork()\n    time.sleep(600)",
    "forks and ends": "import os, time\n    if os.fork(): os._exit(0)\n    time.sleep(600)",
}


@pytest.mark.parametrize("fault", DIES)
def test_a_decoder_that_dies_is_a_failure_of_that_video_only(tmp_path, locked, fault):
    film = write_film(tmp_path / "f.mp4")
    program = shim(tmp_path, f"def act(path, limits):\n    {DIES[fault]}\n")
    assert refusal(film, program=program)[0] == "E_DECODER_CRASHED"
    assert same(film)


@pytest.mark.parametrize("fault", HANGS)
def test_a_decoder_that_hangs_is_ended_with_all_that_it_started(tmp_path, locked, fault):
    film = write_film(tmp_path / "f.mp4")
    program = shim(tmp_path, f"def act(path, limits):\n    {HANGS[fault]}\n")
    code, text = refusal(film, Intake(decode_s=1.5), program=program)
    assert code in ("E_DECODER_TIMEOUT", "E_DECODER_CRASHED")
    assert "longer than 1.5 s" in text or fault == "forks and ends"
    assert same(film)


def test_a_decoder_that_computes_without_end_is_ended(tmp_path, locked):
    film = write_film(tmp_path / "f.mp4")
    program = shim(tmp_path, "def act(path, limits):\n    while True: pass\n")
    code, text = refusal(film, Intake(decode_cpu_s=1), program=program)
    assert (code, "too much computing" in text) == ("E_DECODER_TIMEOUT", True)


def test_a_decoder_that_wants_too_much_memory_gets_none(tmp_path, locked):
    film = write_film(tmp_path / "f.mp4")
    program = shim(tmp_path, "def act(path, limits):\n    return bytearray(10 * 2**30)\n")
    code, text = refusal(film, program=program)
    assert (code, "more memory" in text) == ("E_TOO_LARGE", True)


LATER = """
def act(path, limits):
    film = decoder.open_checked(path, limits)
    read = film.read
    def reads(start, stop):
        for number, rgb in enumerate(read(start, stop)):
            if number == 3:
                {fault}
            yield rgb
    film.read = reads
    return film
"""


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("import ctypes; ctypes.string_at(0)", "E_DECODER_CRASHED"),
        ("import time; time.sleep(600)", "E_DECODER_TIMEOUT"),
        ("rgb = rgb[1:]", "E_DECODER_CRASHED"),
        ("bytearray(10 * 2**30)", "E_TOO_LARGE"),
        ("return", "E_DECODER_CRASHED"),
    ],
    ids=["dies", "hangs", "shrinks", "grows", "stops"],
)
def test_a_fault_in_the_middle_comes_after_the_frames_before_it(tmp_path, fault, code):
    film, came = write_film(tmp_path / "f.mp4"), []
    program = shim(tmp_path, LATER.format(fault=fault))
    with (
        pytest.raises(JobFailure) as failure,
        open_apart(film, Intake(decode_s=1.5), program=program) as video,
    ):
        came.extend(frame.index for frame in video.frames())
    assert (failure.value.code, came) == (code, [0, 1, 2])


def claims(stamps="bytes(8)", **changed):
    """Return a program that says what a decoder says first, with changes."""
    about = {"height": HEIGHT, "width": WIDTH, "time_base": [1, 10], "rate": [10, 1]} | changed
    return f"say(b'A', {json.dumps(about).encode()!r}); say(b'T', {stamps})"


LIES = {
    "noise": "out.write(os.urandom(4096))",
    "text": "out.write(b'Traceback (most recent call last)' * 9)",
    "half a head": "out.write(b'A')",
    "a length without end": "out.write(M.pack(b'A', 2**63))",
    "a refusal without end": "out.write(M.pack(b'E', 2**40))",
    "a refusal of no kind": 'say(b\'E\', b\'{"kind": "Problem", "text": ""}\')',
    "a refusal that is no JSON": "say(b'E', b'{' * 1000)",
    "a frame first": "say(b'F', b'x' * 100)",
    "no JSON": "say(b'A', b'[' * 4000)",
    "another JSON": "say(b'A', b'[1, 2]')",
    "no height": "say(b'A', b'{}')",
    "a negative size": claims(height=-64),
    "a size that is none": claims(height=True),
    "a size over the limit": claims(height=10**6, width=10**6),
    "a size without end": claims(height=float("inf")),
    "a time base of zero": claims(time_base=[0, 1]),
    "a time base by zero": claims(time_base=[1, 0]),
    "a time base in words": claims(time_base="1e9999999999"),
    "a huge rate": claims(rate=[10**3_000, 1]),
    "no frames": claims("b''"),
    "half a stamp": claims("bytes(9)"),
    "stamps that stand still": claims("bytes(16)"),
    "too many stamps": claims("b''").replace("say(b'T', b'')", "out.write(M.pack(b'T', 2**40))"),
}


@pytest.mark.parametrize("lie", LIES)
def test_nothing_that_a_decoder_could_say_is_believed_unchecked(tmp_path, monkeypatch, lie):
    monkeypatch.setattr(decode, "sandbox", lambda: "limits only")
    film = write_film(tmp_path / "f.mp4")
    text = (
        f"# {tmp_path}\nimport os, sys, time\nfrom masklet.server.decoder import MESSAGE as M\n"
        "out = sys.stdout.buffer\n"
        f"def say(kind, data): out.write(M.pack(kind, len(data)) + data)\n{LIES[lie]}\nout.flush()\n"
    )
    began = time.monotonic()
    assert refusal(film, program=(sys.executable, "-c", text))[0] == "E_DECODER_CRASHED"
    assert time.monotonic() - began < 10


def test_words_of_a_refusal_are_plain_text(tmp_path):
    film = write_film(tmp_path / "f.mp4")
    program = shim(tmp_path, "def act(path, limits):\n    raise BadVideo('\\x1b[31mred\\r\\n\\0 ' + 'x' * 100)\n")
    assert refusal(film, program=program)[1] == "[31mred " + "x" * 100


# Whoever waits can stop


class Enough(Exception):
    pass


@pytest.mark.parametrize("when", ["opening", "reading"])
def test_whoever_waits_can_stop_at_any_time(tmp_path, locked, when):
    film = write_film(tmp_path / "f.mp4")
    hang = "import time; time.sleep(600)"
    body = f"def act(path, limits):\n    {hang}\n" if when == "opening" else LATER.format(fault=hang)
    until = time.monotonic() + 2

    def check():
        if time.monotonic() > until:
            raise Enough

    with pytest.raises(Enough), open_apart(film, Intake(), check=check, program=shim(tmp_path, body)) as video:
        list(video.frames())
    assert time.monotonic() < until + 1


def test_it_ends_with_whoever_started_it_even_by_sigkill(tmp_path, locked):
    film = write_film(tmp_path / "f.mp4")
    text = (
        f"from pathlib import Path\nfrom masklet.server import decode\nfrom masklet.server.duty import Intake\n"
        f"decode.sandbox = lambda: {locked!r}\nvideo = decode.open_apart(Path({str(film)!r}), Intake())\n"
        "print(video.frame_count, flush=True)\nimport time; time.sleep(600)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    assert worker.stdout.readline() == f"{FRAMES}\n".encode()
    assert len(processes_about(tmp_path)) >= 2
    worker.kill()
    worker.communicate()


def test_a_file_that_went_away_is_no_mystery(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "sandbox", lambda: "limits only")
    code, text = refusal(Path(tmp_path / "gone.mp4"))
    assert (code, "does not exist" in text) == ("E_UNSUPPORTED_MEDIA", True)
