"""Who is let in: tokens and owners, browsers that were tricked, and servers that would be open to strangers."""

import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from masklet.server.auth import LOCAL_OWNER, BadSetup, Gate, check_exposure, is_loopback, read_tokens
from masklet.server.problems import Refusal
from server.serving import CLICK, HOSTED, TOKEN, serving, wait_until

ALICE, BOB = TOKEN, TOKEN[::-1]
OPEN = ["/", "/healthz", "/readyz", "/health", "/health-check", "/docs", "/openapi.json"]
ID = "a" * 26
CLOSED = [
    ("GET", "/v1/predictions"),
    ("POST", "/v1/predictions"),
    ("GET", f"/v1/predictions/{ID}"),
    ("POST", f"/v1/predictions/{ID}/cancel"),
    ("POST", "/v1/models/meta/sam-2-video/predictions"),
    ("GET", "/v1/models"),
    ("QUERY", "/v1/models"),
    ("GET", "/v1/models/meta/sam-2-video"),
    ("GET", f"/v1/models/meta/sam-2-video/versions/{HOSTED}"),
    ("GET", "/v1/collections"),
    ("GET", "/v1/account"),
    ("GET", "/v1/hardware"),
    ("GET", "/v1/webhooks/default/secret"),
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("GET", f"/v1/files/{ID}"),
    ("DELETE", f"/v1/files/{ID}"),
    ("GET", f"/v1/files/{ID}/download"),
    ("GET", f"/v1/files/{ID}/stream"),
    ("GET", f"/v1/outputs/{ID}/frame_00000.png"),
    ("POST", "/predictions"),
    ("PUT", "/predictions/x"),
    ("POST", "/predictions/x/cancel"),
    ("POST", "/shutdown"),
    ("GET", "/metrics"),
    ("GET", "/nothing/here"),
]


@pytest.fixture
def alice(guarded):
    with guarded.client(ALICE) as client:
        yield client


@pytest.fixture
def bob(guarded):
    with guarded.client(BOB) as client:
        yield client


@pytest.fixture
def nobody(guarded):
    with guarded.client() as client:
        yield client


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer ünïcödé".encode(),
        b"Bearer \xff\xfe",
    ],
    ids=["none", "wrong", "longer", "shorter", "bare", "basic", "no scheme", "not ascii", "not text"],
)
def test_nothing_is_answered_without_a_valid_token(nobody, method, path, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = nobody.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.json() == {
        "title": "Unauthenticated",
        "detail": "You did not pass a valid authentication token",
        "status": 401,
    }


def test_a_token_in_the_address_is_none(nobody):
    for name in ("token", "access_token", "api_token", "authorization"):
        assert nobody.get("/v1/predictions", params={name: ALICE}).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_what_tells_nothing_of_anybodys_work_needs_none(nobody, path):
    assert nobody.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_who_only_wants_to_know_whether_it_lives_may_ask_for_the_head(nobody, path):
    answer = nobody.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_which_prediction_a_worker_runs_is_not_told_without_a_token(alice, nobody, clip):
    file = alice.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
    slow = {"version": HOSTED, "input": {"input_video": file, **CLICK, "click_object_ids": "fault-hang-1"}}
    made = alice.post("/v1/predictions", json=slow).json()["id"]
    wait_until(lambda: made in alice.get("/health").text)
    health = nobody.get("/health").json()
    assert [worker["state"] for worker in health["workers"]] == ["busy"]
    assert made not in str(health)
    alice.post(f"/v1/predictions/{made}/cancel")


@pytest.mark.parametrize("scheme", ["Bearer", "Token", "bearer", "TOKEN"])
def test_both_words_that_clients_use_are_taken(nobody, scheme):
    assert nobody.get("/v1/account", headers={"Authorization": f"{scheme} {ALICE}"}).json()["username"] == "alice"


def test_each_token_has_its_owner(alice, bob):
    assert (alice.get("/v1/account").json()["username"], bob.get("/v1/account").json()["username"]) == ("alice", "bob")
    secrets = {client.get("/v1/webhooks/default/secret").json()["key"] for client in (alice, bob)}
    assert len(secrets) == 2


def test_what_is_somebody_elses_is_not_there(alice, bob, clip):
    file = alice.post("/v1/files", files={"content": clip.read_bytes()}).json()
    body = {"version": HOSTED, "input": {"input_video": file["urls"]["get"], **CLICK}}
    own = alice.post("/v1/predictions", json=body, headers={"Prefer": "wait"}).json()
    assert own["status"] == "succeeded"
    output = urlsplit(own["output"][0]).path
    for method, path in (
        ("GET", f"/v1/predictions/{own['id']}"),
        ("POST", f"/v1/predictions/{own['id']}/cancel"),
        ("POST", f"/predictions/{own['id']}/cancel"),
        ("GET", f"/v1/files/{own['id']}/stream"),
        ("GET", output),
        ("GET", f"/v1/files/{file['id']}"),
        ("GET", f"/v1/files/{file['id']}/download"),
        ("DELETE", f"/v1/files/{file['id']}"),
    ):
        answer = bob.request(method, path)
        assert answer.status_code == 404, path
        assert bob.request(method, path.replace(own["id"], ID).replace(file["id"], ID)).json() == answer.json()
    for path in ("/v1/predictions", "/v1/files"):
        assert own["id"] not in bob.get(path).text
        assert file["id"] not in bob.get(path).text
    refused = bob.post("/v1/predictions", json=body)
    assert refused.status_code == 422, "another's upload was taken as an input"
    assert alice.get(output).status_code == 200


def test_nobody_can_take_the_id_of_another_owners_prediction(alice, bob, clip):
    file = alice.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
    body = {"input": {"input_video": file, **CLICK}}
    made = alice.put("/predictions/mine", json=body, headers={"Prefer": "respond-async"})
    assert made.json()["id"] == "mine"
    theirs = bob.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
    answer = bob.put("/predictions/mine", json={"input": {"input_video": theirs, **CLICK}})
    assert answer.status_code == 422
    assert "'mine' is taken" in answer.json()["detail"]
    assert "same request" not in answer.json()["detail"], "no request of bob's would do"
    assert file not in answer.text


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8000", "127.0.0.1.evil.test", "", "[::1", "10.0.0.1"])
def test_a_server_for_this_machine_answers_to_no_other_name(served, host):
    with served.client() as client:
        for method, path in (("GET", "/v1/predictions"), ("POST", "/v1/predictions"), ("POST", "/predictions")):
            answer = client.request(method, path, headers={"Host": host})
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


def test_it_answers_to_every_name_of_this_machine(served):
    port = urlsplit(served.url).port
    with served.client() as client:
        for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"[::1]:{port}", "LOCALHOST"):
            assert client.get("/v1/predictions", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1.evil.test"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [case for case in CLOSED if case[0] != "GET"])
def test_a_page_on_another_site_changes_nothing(served, method, path, headers):
    with served.client() as client:
        answer = client.request(method, path, headers=headers)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_this_server_may(served):
    with served.client() as client:
        headers = {"Origin": served.url, "Sec-Fetch-Site": "same-origin"}
        assert client.post("/v1/predictions", json={}, headers=headers).status_code == 422


def test_there_is_no_cors_until_an_origin_is_allowed(served):
    preflight = {"Origin": "https://app.test", "Access-Control-Request-Method": "POST"}
    with served.client() as client:
        answer = client.options("/v1/predictions", headers=preflight)
        assert answer.status_code >= 400
        assert "access-control-allow-origin" not in client.get("/v1/predictions", headers=preflight).headers


def test_an_origin_and_a_host_can_be_allowed(tmp_path):
    flags = ["--allow-origin", "https://app.test", "--allow-host", "masks.test", "--token", TOKEN]
    with serving(tmp_path, *flags, "--workers", "0", ready=False) as server, server.client() as client:
        preflight = {
            "Origin": "https://app.test",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        allowed = client.options("/v1/predictions", headers=preflight)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://app.test")
        assert client.options("/v1/predictions", headers=preflight | {"Origin": "https://b.test"}).status_code == 400
        own = {"Authorization": f"Bearer {TOKEN}", "Host": "masks.test", "Origin": "https://app.test"}
        assert client.post("/v1/predictions", json={}, headers=own).status_code == 422


def test_every_answer_says_that_it_is_not_a_part_of_other_pages(served):
    with served.client() as client:
        for path in ("/", "/v1/predictions", "/docs", "/nothing"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["x-frame-options"] == "DENY"
            assert "server" not in headers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.test", "127.0.0.1.nip.io"])
def test_without_a_token_other_machines_are_not_listened_to(host, tmp_path):
    command = [sys.executable, "-m", "masklet", "serve", "--host", host, "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "give a --token" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_this_machine_needs_no_token(host):
    assert is_loopback(host)
    check_exposure(host, ())


@pytest.mark.parametrize(
    ("line", "says"), [("short", "at least 16"), ("alice:short", "at least 16"), (f"a b:{TOKEN}", "not a name")]
)
def test_a_weak_or_misspelt_token_is_refused(line, says):
    with pytest.raises(BadSetup, match=says):
        read_tokens([line])


def test_tokens_may_come_from_a_file_or_the_environment(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"alice:{ALICE}\n\nbob:{BOB}\n")
    with serving(tmp_path / "a", "--token-file", str(file), "--workers", "0", ready=False) as server:
        assert httpx.get(f"{server.url}/v1/account").status_code == 401
        with server.client(BOB) as client:
            assert client.get("/v1/account").json()["username"] == "bob"
    environment = {"MASKLET_TOKEN": f"{ALICE}, bob:{BOB}", "MASKLET_WORKERS": "0"}
    with serving(tmp_path / "b", ready=False, **environment) as server, server.client(ALICE) as client:
        assert client.get("/v1/account").json()["username"] == "default"


def test_tokens_are_kept_as_digests_only():
    [token] = read_tokens([f"alice:{ALICE}"])
    assert ALICE not in repr(token)
    assert len(token.digest) == 32


@given(st.text())
def test_no_header_makes_the_gate_fail(text):
    gate = Gate(read_tokens([f"alice:{ALICE}"]))
    latin = text.encode("utf-8", "surrogatepass").decode("latin-1")
    assert gate.owner(f"Bearer {latin}") is None
    assert gate.owner(latin) is None
    assert Gate().owner(latin) == LOCAL_OWNER


PIECES = st.sampled_from(
    [b"masks.test", b"evil.test", b"http://", b"https://", b":", b"80", b"@", b".", b"[", b"/", b"?"]
)


@given(*[st.lists(PIECES | st.binary(max_size=3), max_size=6).map(b"".join)] * 2)
def test_no_host_or_origin_of_another_site_passes_the_gate(host, origin):
    headers = Headers(raw=[(b"host", host), (b"origin", origin)])
    try:
        Gate(hosts=("masks.test",)).check_browser("POST", headers)
    except Refusal as refusal:
        assert refusal.status_code == 403
    else:
        name, _, port = host.decode("ascii").lower().partition(":")
        assert name.rstrip(".") == "masks.test"
        assert port.isdigit() or not port
        assert host.lower() == origin.lower().split(b"://")[1]
