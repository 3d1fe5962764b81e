"""For those who run it: health, figures, a log without secrets, slow clients, and a stop that nobody waits for."""

import io
import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from masklet.jobs import JobStore
from masklet.server.ops import set_up_logs, without_secrets
from server.serving import CLICK, HOSTED, KEY, TOKEN, serving, wait_until, wait_until_ended

SECRETS = [
    f"Bearer {TOKEN}",
    f"Authorization: Token {TOKEN}",
    f"https://h/v1/outputs/x/y.png?owner=alice&expiry=1&signature={TOKEN}",
    f"https://user:{TOKEN}@host.test/x",
    f"key whsec_{TOKEN} used",
    f"r8_{TOKEN.replace('-', '')}",
    f"https://bucket.test/v.mp4?X-Amz-Signature={TOKEN}&x=1",
    f"https://bucket.test/v.mp4?sig={TOKEN}",
    f"data:video/mp4;base64,{TOKEN}",
    f"password={TOKEN}",
]


def start(http, video, **more):
    body = {"version": HOSTED, "input": {"input_video": video, **CLICK, **more}}
    return http.post("/v1/predictions", json=body).json()


def figures(http):
    """Return what /metrics says, by name and labels."""
    lines = [line for line in http.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_server_that_is_ready_says_so_and_how_each_part_is(http):
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"ready": True, "reasons": []}
    health = http.get("/health").json()
    assert (health["status"], health["model"]) == ("ok", "nano")
    assert [worker["state"] for worker in health["workers"]] == ["ready"]
    assert health["sandbox"]


def test_a_server_whose_model_is_not_loaded_lives_and_is_not_ready(tmp_path):
    with serving(tmp_path, "--workers", "0", ready=False) as server, server.client() as http:
        assert http.get("/healthz").status_code == 200
        answer = http.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["reasons"] == ["there are no workers"]


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_checkpoint_that_is_a_pickle_bomb_is_refused_and_not_run(tmp_path):
    bomb, canary = tmp_path / "weights.pt", tmp_path / "canary"
    bomb.write_bytes(pickle.dumps({"model": Bomb(f"touch {canary}")}))
    with (
        serving(tmp_path / "data", "--model", str(bomb), engine="real", ready=False) as server,
        server.client() as http,
    ):
        wait_until(lambda: http.get("/health-check").json()["status"] == "SETUP_FAILED")
        assert http.get("/healthz").status_code == 200
        assert "could run code" in http.get("/health-check").json()["setup"]["logs"]
    assert not canary.exists()
    pickle.loads(bomb.read_bytes())
    assert canary.exists(), "the bomb is no bomb: this test proves nothing"


def test_a_model_that_cannot_be_loaded_is_said_with_the_reason_and_jobs_stay(tmp_path, clip):
    with serving(tmp_path, "--model", "sam2.1-none", engine="real", ready=False) as server, server.client() as http:
        file = http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
        made = start(http, file)
        end = time.monotonic() + 60
        while (cog := http.get("/health-check").json())["status"] == "STARTING" and time.monotonic() < end:
            time.sleep(0.1)
        assert (cog["status"], cog["setup"]["status"]) == ("SETUP_FAILED", "failed")
        assert "sam2.1-none" in cog["setup"]["logs"]
        assert http.get("/health").json()["status"] == "degraded"
        assert "sam2.1-none" in str(http.get("/readyz").json()["reasons"])
        assert http.get(f"/v1/predictions/{made['id']}").json()["status"] == "starting"


def test_the_figures_count_requests_by_route_and_predictions_by_status(http, video):
    before = figures(http)
    ended = wait_until_ended(http, start(http, video)["id"])
    assert ended["status"] == "succeeded"
    after = figures(http)
    created = 'masklet_http_requests_total{method="POST",route="/v1/predictions",status="201"}'
    assert after[created] - before.get(created, 0) == 1
    done = 'masklet_predictions{status="succeeded"}'
    assert after[done] - before.get(done, 0) == 1
    assert after['masklet_workers{state="ready"}'] == 1
    assert after["masklet_event_loop_lag_seconds_count"] > 0
    assert not [name for name in after if ended["id"] in name], "an id became a label"


def test_routes_that_do_not_exist_are_one_label(http):
    for i in range(3):
        http.get(f"/nothing/{i}")
    assert figures(http)['masklet_http_requests_total{method="GET",route="unmatched",status="404"}'] >= 3


def test_methods_that_nobody_knows_are_one_label(http):
    for i in range(3):
        http.request(f"MADEUP{i}", "/v1/account")
    made_up = [name for name in figures(http) if "MADEUP" in name]
    assert made_up == []
    assert any('method="other"' in name for name in figures(http))


def test_a_path_is_logged_as_it_was_sent(http, served):
    id = http.get("/nothing/%1b%5b31m%0a").headers["x-request-id"]
    wait_until(lambda: [entry for entry in served.log if entry.get("request") == id])
    [entry] = [entry for entry in served.log if entry.get("request") == id]
    assert entry["path"] == "/nothing/%1b%5b31m%0a"


def test_each_answer_names_its_request_and_the_log_tells_it(http, served):
    answer = http.get("/v1/account")
    id = answer.headers["x-request-id"]
    wait_until(lambda: [entry for entry in served.log if entry.get("request") == id])
    [entry] = [entry for entry in served.log if entry.get("request") == id]
    assert (entry["method"], entry["path"], entry["status"]) == ("GET", "/v1/account", 200)
    assert {"level", "timestamp", "seconds", "owner"} <= set(entry)


@pytest.mark.parametrize("text", SECRETS)
def test_no_secret_passes_the_log(text):
    hidden = without_secrets(text)
    assert TOKEN not in hidden
    assert TOKEN.replace("-", "") not in hidden
    assert "[hidden]" in hidden


@pytest.mark.parametrize(
    "text",
    [
        "GET /v1/predictions/abc 200",
        "worker-3a587e-1-1 gone: its worker was ended by signal 9",
        "the token of this lease is old",
        "https://host.test/video.mp4",
        "data folder: /srv/masklet",
    ],
)
def test_what_is_no_secret_stays(text):
    assert text == without_secrets(text)


def test_the_log_of_a_failure_has_no_secret_either(monkeypatch):
    import structlog

    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    root = logging.getLogger()
    before = (root.handlers, root.level)
    try:
        set_up_logs(as_json=True)
        try:
            raise RuntimeError(f"cannot reach https://user:{TOKEN}@host.test/")
        except RuntimeError:
            structlog.get_logger().exception("failed", url=f"https://h/?signature={TOKEN}", nested={"token": TOKEN})
            logging.getLogger("httpx").warning("asked with Bearer %s", TOKEN)
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()
    lines = [json.loads(line) for line in heard.getvalue().splitlines()]
    assert len(lines) == 2
    assert "RuntimeError" in lines[0]["exception"]
    assert TOKEN not in heard.getvalue()


def test_a_run_with_secrets_everywhere_leaves_none_in_log_answers_or_files(tmp_path, clip):
    canary = "canary" + "0123456789abcdef" * 2
    with serving(tmp_path, "--token", f"alice:{canary}") as server, server.client(canary) as http:
        file = http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
        texts = [
            http.get("/v1/account").text,
            http.get(f"/v1/predictions?token={canary}").text,
            json.dumps(wait_until_ended(http, start(http, file)["id"])),
            http.get("/health").text,
            http.get("/openapi.json").text,
            http.get("/metrics").text,
        ]
        server.stop()
    assert canary not in json.dumps(server.log)
    assert canary not in "".join(texts)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or canary.encode() not in path.read_bytes(), path


def test_a_failure_that_nobody_foresaw_is_a_problem_without_a_traceback():
    import asyncio

    from masklet.jobs import Counts
    from masklet.server.ops import Metrics, Observed

    async def broken(scope, receive, send):
        raise RuntimeError("/secret/path")

    metrics = Metrics(lambda: Counts({}, 0.0, 0, 0), dict, "0")
    transport = httpx.ASGITransport(Observed(broken, metrics), raise_app_exceptions=False)

    async def ask():
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.get("/")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.headers["x-request-id"] in answer.json()["detail"]
    assert "secret" not in answer.text


def test_a_client_that_does_not_say_what_it_wants_is_cut_off(tmp_path):
    flags = ["--header-s", "0.5", "--workers", "0"]
    with serving(tmp_path, *flags, ready=False) as server:
        address = ("127.0.0.1", urlsplit(server.url).port)
        idle = [socket.create_connection(address) for _ in range(50)]
        slow = socket.create_connection(address)
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        started = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - started < 20:
                slow.sendall(b"X: y\r\n")
                time.sleep(0.1)
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        for connection in idle:
            assert connection.recv(1) == b""
            connection.close()
        slow.close()


def test_a_connection_that_is_used_again_is_not_cut_off_by_that_clock(tmp_path):
    with serving(tmp_path, "--header-s", "0.5", "--workers", "0", ready=False) as server, server.client() as http:
        for _ in range(4):
            assert http.get("/healthz").status_code == 200
            time.sleep(0.3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_at_once_even_while_clients_wait_and_listen(tmp_path, clip, number):
    with serving(tmp_path) as server, server.client() as http, ThreadPoolExecutor(2) as pool:
        file = http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
        slow = {"click_object_ids": "fault-slow"}
        made = start(http, file, **slow)
        waits = pool.submit(
            lambda: httpx.post(
                f"{server.url}/v1/predictions",
                json={"version": HOSTED, "input": {"input_video": file, **CLICK, **slow}},
                headers={"Prefer": "wait"},
                timeout=60,
            )
        )
        listens = pool.submit(lambda: httpx.get(made["urls"]["stream"], timeout=60).text)
        while not http.get(f"/v1/predictions/{made['id']}").json()["output"]:
            pass
        assert server.stop(number) == 0
        assert (waits.result().status_code, waits.result().json()["status"]) == (202, "starting")
        assert "event: output" in listens.result()


@pytest.mark.parametrize("ready", [False, True], ids=["while it starts", "idle"])
def test_a_signal_ends_it_when_there_is_nothing_to_do(tmp_path, ready):
    with serving(tmp_path, ready=ready) as server:
        assert server.stop() == 0


def test_five_signals_in_a_row_end_it_with_nothing_claimed(tmp_path, clip):
    with serving(tmp_path) as server, server.client() as http:
        file = http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
        made = start(http, file, click_object_ids="fault-hang-1")
        wait_until(lambda: http.get(f"/v1/predictions/{made['id']}").json()["output"])
        for _ in range(4):
            server.process.send_signal(signal.SIGTERM)
        assert server.stop() == 0
    with JobStore(tmp_path) as store:
        assert store.counts().by_status == {"starting": 1}


def test_what_was_accepted_before_a_stop_is_there_after_the_next_start(tmp_path, clip):
    with serving(tmp_path) as server, server.client() as http:
        file = http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
        ids = [start(http, file, click_object_ids="fault-slow")["id"] for _ in range(3)]
        server.stop()
    with serving(tmp_path) as server, server.client() as http:
        assert [wait_until_ended(http, id)["status"] for id in ids] == ["succeeded"] * 3


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "masklet", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "99999"], "--port"),
        (["--tls-cert", "x.pem"], "belong together"),
        (["--tls-cert", __file__, "--tls-key", str(KEY)], "certificate"),
        (["--token-file", "/nowhere"], "--token-file /nowhere cannot be read"),
        (["--json-bytes", "0"], "--json-bytes"),
        (["--run-s", "-1"], "--run-s"),
        (["--host", "203.0.113.9", "--token", TOKEN], "cannot listen on 203.0.113.9"),
        (["--outputs", "carrier-pigeon"], "outputs"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_setting_that_cannot_be_is_said_and_nothing_starts(tmp_path, flags, says):
    done = command("serve", "--data-dir", str(tmp_path / "data"), *flags)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said_with_the_way_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = command("serve", "--data-dir", str(tmp_path), "--port", port)
    assert done.returncode == 2
    assert "--port 0" in done.stderr


def test_a_data_folder_has_one_server(served, tmp_path):
    done = command("serve", "--data-dir", str(served.data_dir), "--port", "0")
    assert done.returncode == 1
    assert "in use by another masklet server" in done.stderr


def test_every_setting_is_a_flag_and_explained():
    from masklet.server.settings import Settings

    text = command("serve", "--help", COLUMNS="200").stdout
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description, name


def test_the_environment_sets_what_flags_do_not(tmp_path):
    environment = {"MASKLET_WORKERS": "3", "MASKLET_MODEL": "sam2.1-tiny"}
    with serving(tmp_path, "--workers", "0", ready=False, **environment) as server, server.client() as http:
        health = http.get("/health").json()
    assert (health["model"], len(health["workers"])) == ("sam2.1-tiny", 0)


def test_jobs_lists_shows_cancels_and_finds_nothing_that_is_not_there(served, http, video):
    folder = ["--data-dir", str(served.data_dir)]
    *first, slow = [start(http, video, click_object_ids="fault-slow") for _ in range(5)]
    assert command("jobs", *folder, "cancel", slow["id"]).stdout == f"{slow['id']} canceled\n"
    for each in first:
        http.post(f"/v1/predictions/{each['id']}/cancel")
    assert http.get(f"/v1/predictions/{slow['id']}").json()["status"] == "canceled"
    good = wait_until_ended(http, start(http, video)["id"])
    bad = wait_until_ended(http, start(http, video, click_frames="77")["id"])
    listed = command("jobs", *folder)
    assert re.search(rf"^{good['id']}  succeeded .* 6 files$", listed.stdout, re.MULTILINE)
    assert re.search(rf"^{bad['id']}  failed .* E_FRAME_RANGE", listed.stdout, re.MULTILINE)
    assert "succeeded" in listed.stderr
    failed = command("jobs", *folder, "--status", "failed", "--json").stdout.splitlines()
    assert {"failed"} == {json.loads(line)["status"] for line in failed}
    shown = json.loads(command("jobs", *folder, "show", good["id"]).stdout)
    assert (good["logs"], 6) == (shown["logs"], len(shown["outputs"]))
    assert command("jobs", *folder, "resend", good["id"]).stdout == "0 webhooks will be sent again\n"
    missing = command("jobs", *folder, "show", "nothing")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "there is no prediction 'nothing'" in missing.stderr


@pytest.mark.parametrize("name", ["show", "cancel", "resend"])
def test_help_about_a_job_needs_no_server(tmp_path, name):
    done = command("jobs", "--data-dir", str(tmp_path), name, "--help")
    assert (done.returncode, f"masklet jobs {name} " in done.stdout) == (0, True)


def test_jobs_of_a_folder_without_a_server_are_none(tmp_path):
    done = command("jobs", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "give the server's --data-dir" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_fifty_durable_creates_a_second_are_the_least():
    script = Path(__file__).parents[2] / "bench" / "service.py"
    command = [sys.executable, str(script), "--seconds", "1", "--clients", "8", "--floor", "50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("create (durable), 8 clients", "status, 8 clients", "flushed writes", "wake-ups of the event loop"):
        assert line in done.stdout
