"""The HTTP API of a Cog container, and the real `cog` package serving `run.py`: both give the same masks."""

import ast
import base64
import json
import os
import re
import signal
import socket
import subprocess
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import httpx
import pytest
import yaml
from shell import PATIENCE_S

from masklet.request import options
from masklet.server.catalog import inputs
from masklet.server.cog_schema import cog_openapi
from server.clients.environments import python_with
from server.serving import (
    CLICK,
    FRAMES,
    TOKEN,
    serving,
    wait_until,
    wait_until_ended,
    write_beginning_of_example,
)

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((Path(__file__).parent / "golden" / "cog-0.16.12-openapi.json").read_text())
REQUIRED = ("input_video", "click_coordinates")


def asked(video, **more):
    return {"input": {"input_video": video, **CLICK, "output_format": "png", **more}}


def without_texts(schema):
    """Return a schema without descriptions, which are each maker's own."""
    if isinstance(schema, dict):
        return {name: without_texts(value) for name, value in schema.items() if name != "description"}
    return [without_texts(each) for each in schema] if isinstance(schema, list) else schema


def test_trap_6_the_schema_is_the_one_that_cog_makes_of_the_hosted_model_with_our_inputs_after_its_own():
    ours, theirs = without_texts(cog_openapi(REQUIRED)), without_texts(GOLDEN)
    own = ours["components"]["schemas"]["Input"]["properties"]
    hosted = theirs["components"]["schemas"]["Input"]["properties"]
    assert list(hosted) == list(own)[: len(hosted)]
    assert {"boxes", "direction", "source_timing"} == set(own) - set(hosted)
    assert own["output_frame_interval"].pop("minimum") == 1  # the hosted page gives none, and 0 divides by it
    for name in set(own) - set(hosted):
        own.pop(name)
        ours["components"]["schemas"].pop(name, None)
    assert theirs == ours
    assert ours["components"]["schemas"]["annotation_type"]["enum"] == ["mask", "box", "both"]


def test_under_cog_the_document_is_cogs(tmp_path):
    with serving(tmp_path, "--cog", "--workers", "0", ready=False) as server, server.client() as http:
        assert cog_openapi(REQUIRED) == http.get("/openapi.json").json()
        assert "/predictions/{prediction_id}/cancel" in http.get("/docs").text


def test_the_root_tells_where_everything_is(http):
    root = http.get("/").json()
    assert root["cog_version"] == "0.16.12"
    for name in ("docs_url", "openapi_url", "healthcheck_url"):
        assert http.get(root[name]).status_code == 200
    assert root["predictions_cancel_url"] == "/predictions/{prediction_id}/cancel"


def test_the_health_check_is_always_200_with_the_state_inside(http, video):
    health = http.get("/health-check").json()
    assert (health["status"], health["setup"]["status"]) == ("READY", "succeeded")
    assert health["setup"]["started_at"] <= health["setup"]["completed_at"]
    made = http.post(
        "/predictions", json=asked(video, click_object_ids="fault-slow"), headers={"Prefer": "respond-async"}
    )
    wait_until(lambda: http.get("/health-check").json()["status"] == "BUSY")
    http.post(f"/predictions/{made.json()['id']}/cancel")


def test_a_prediction_answers_when_it_is_done_with_everything_that_cog_says(http, video):
    answer = http.post("/predictions", json=asked(video))
    assert answer.status_code == 200
    prediction = answer.json()
    keys = {"input", "output", "id", "version", "created_at", "started_at", "completed_at", "logs", "error", "status"}
    assert keys | {"metrics"} == set(prediction)
    assert (prediction["status"], prediction["error"]) == ("succeeded", None)
    assert len(prediction["output"]) == FRAMES
    for uri in prediction["output"]:
        assert uri.startswith("data:image/png;base64,")
        assert base64.b64decode(uri.partition(",")[2]).startswith(b"\x89PNG")
    assert prediction["metrics"]["predict_time"] > 0
    assert tuple(prediction["input"][name] for name in ("click_labels", "output_quality", "direction")) == (
        "1",
        80,
        "both",
    )


def test_a_failed_prediction_is_200_and_says_why(http, video):
    answer = http.post("/predictions", json=asked(video, click_frames="77"))
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert "77" in answer.json()["error"]


def test_an_asynchronous_one_is_accepted_at_once_and_goes_on(http, video):
    answer = http.post("/predictions", json=asked(video), headers={"Prefer": "respond-async"})
    assert (answer.status_code, answer.json()["status"]) == (202, "starting")
    assert wait_until_ended(http, answer.json()["id"])["status"] == "succeeded"


def test_an_id_of_ones_own_makes_it_idempotent(http, video):
    path = "/predictions/my-own_Id1"
    body = asked(video, click_object_ids="fault-slow")
    first = http.put(path, json=body, headers={"Prefer": "respond-async"})
    assert (first.status_code, first.json()["id"]) == (202, "my-own_Id1")
    again = http.put(path, json=body)
    assert (202, first.json()["created_at"]) == (again.status_code, again.json()["created_at"])
    wait_until_ended(http, "my-own_Id1")
    after = http.put(path, json=body)
    assert (200, "succeeded", first.json()["created_at"]) == (
        after.status_code,
        after.json()["status"],
        after.json()["created_at"],
    )
    assert http.put(path, json=asked(video)).status_code == 422


@pytest.mark.parametrize("id", ["..", "a/b", "a b", "x" * 65, "é", "a.b", "%00"])
def test_an_id_that_could_be_a_path_is_refused(http, video, id):
    answer = http.post("/predictions", json=asked(video) | {"id": id})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "id"]
    assert http.put(f"/predictions/{id}", json=asked(video)).status_code in (404, 405, 422)


def test_the_id_in_the_body_must_be_the_one_in_the_path(http, video):
    answer = http.put("/predictions/one", json=asked(video) | {"id": "two"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "prediction ID must match the ID supplied in the URL")


def test_cancelling_is_an_empty_answer_and_404_for_what_does_not_run(http, video):
    id = http.post(
        "/predictions", json=asked(video, click_object_ids="fault-slow"), headers={"Prefer": "respond-async"}
    ).json()["id"]
    cancelled = http.post(f"/predictions/{id}/cancel")
    assert (cancelled.status_code, cancelled.json()) == (200, {})
    assert http.get(f"/v1/predictions/{id}").json()["status"] == "canceled"
    assert http.post(f"/predictions/{id}/cancel").status_code == 404
    assert http.post("/predictions/unknown/cancel").status_code == 404


def test_who_goes_before_the_answer_cancels_it(http, video):
    body = asked(video, click_object_ids="fault-slow", click_labels="1") | {"id": "left-behind"}
    with pytest.raises(httpx.ReadTimeout):
        http.post("/predictions", json=body, timeout=0.5)
    assert wait_until_ended(http, "left-behind")["status"] == "canceled"


def test_one_that_goes_on_when_the_server_stops_is_accepted_and_not_done(tmp_path, clip):
    with serving(tmp_path, "--stop-s", "2") as server, server.client() as http, ThreadPoolExecutor(1) as pool:
        file = http.post("/v1/files", files={"content": clip.read_bytes()}).json()["urls"]["get"]
        body = asked(file, click_object_ids="fault-hang-1") | {"id": "goes-on"}
        waits = pool.submit(httpx.post, f"{server.url}/predictions", json=body, timeout=PATIENCE_S)
        wait_until(lambda: http.get("/v1/predictions/goes-on").json().get("output"))
        assert server.stop() == 0
        assert waits.result().status_code == 202
        assert waits.result().json()["status"] in ("starting", "processing")


def test_there_is_no_polling_in_cogs_api(http):
    assert http.get("/predictions/anything").status_code == 405


@pytest.mark.parametrize(
    ("input", "where", "kind"),
    [
        ({"click_coordinates": None}, "click_coordinates", "value_error"),
        ({"video_fps": 99}, "video_fps", "less_than_equal"),
        ({"video_fps": 0}, "video_fps", "greater_than_equal"),
        ({"mask_type": "x"}, "mask_type", "enum"),
        ({"input_video": "/etc/passwd"}, "input_video", "value_error"),
        ({"input_video": "file:///etc/passwd"}, "input_video", "value_error"),
    ],
)
def test_wrong_inputs_are_said_as_cog_says_them(http, video, input, where, kind):
    answer = http.post("/predictions", json=asked(video, **input))
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert (["body", "input", where], kind) == (problem["loc"], problem["type"])


@pytest.mark.parametrize("body", [None, {}, {"input": None}, {"input": {}}])
def test_no_input_is_no_inputs(http, body):
    answer = http.post("/predictions", json=body)
    assert answer.status_code == 422
    assert {"missing"} == {problem["type"] for problem in answer.json()["detail"]}


def test_keys_and_inputs_that_cog_does_not_know_are_left_out(http, video):
    body = asked(video, favourite_colour="blue") | {"output_file_prefix": "http://x/", "created_at": "now", "y": 1}
    answer = http.post("/predictions", json=body).json()
    assert answer["status"] == "succeeded"
    assert "favourite_colour" not in answer["input"]


def test_events_that_do_not_exist_are_refused(http, video):
    body = asked(video) | {"webhook": "https://x.test/", "webhook_events_filter": ["finish"]}
    assert http.post("/predictions", json=body).status_code == 422


def test_nobody_shuts_it_down_unless_that_was_allowed(http):
    assert http.post("/shutdown").status_code == 403
    assert http.get("/healthz").status_code == 200


def test_it_shuts_down_when_that_was_allowed_and_the_token_is_right(tmp_path):
    flags = ["--allow-shutdown", "--token", TOKEN, "--workers", "0"]
    with serving(tmp_path, *flags, ready=False) as server:
        with server.client() as stranger:
            assert stranger.post("/shutdown").status_code == 401
        with server.client(TOKEN) as http:
            answer = http.post("/shutdown")
            assert (answer.status_code, answer.json()) == (200, {})
        assert server.process.wait(PATIENCE_S) == 0


def signature():
    """Read the arguments of `run`, as Cog does, without running the file."""
    module = ast.parse((ROOT / "run.py").read_text())
    [runner] = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Runner"]
    [run] = [node for node in runner.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    for argument, default in zip(run.args.args[1:], run.args.defaults, strict=True):
        given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in default.keywords}
        yield argument.arg, ast.unparse(argument.annotation), given


def test_cogs_signature_is_the_requests():
    kinds = {str: "str", int: "int", bool: "bool"}
    expected = []
    for option in inputs():
        if option.kind is tuple:  # boxes: Cog has no lists of texts with a default
            continue
        given = {} if option.name in REQUIRED else {"default": option.default}
        if option.choices:
            given["choices"] = list(option.choices)
        least, most = option.limits or (None, None)
        given |= {name: bound for name, bound in (("ge", least), ("le", most)) if bound is not None}
        expected.append((option.name, "Path" if option.name == "input_video" else kinds[option.kind], given))
    found = [(name, kind, {k: v for k, v in given.items() if k != "description"}) for name, kind, given in signature()]
    assert expected == found
    helps = {option.name: option.help for option in options()}
    for name, _, given in signature():
        if name not in ("input_video", "source_timing"):
            assert helps[name] == given["description"]


def test_cog_yaml_names_what_is_there_and_requires_what_the_package_does():
    config = yaml.safe_load((ROOT / "cog.yaml").read_text())
    file, name = config["run"].split(":")
    assert re.search(rf"^class {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    lines = (ROOT / config["build"]["python_requirements"]).read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == [line for line in lines if not line.startswith("#")]
    assert set(config) <= {"build", "run", "image"}
    assert set(config["build"]) <= {"gpu", "cuda", "python_version", "python_requirements", "system_packages", "run"}


@pytest.fixture(scope="module")
def bunny(tmp_path_factory):
    path = write_beginning_of_example(tmp_path_factory.mktemp("clip") / "bunny.mp4", frames=2)
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.fixture(scope="module")
def cog(tmp_path_factory):
    """Serve run.py with the `cog` package, as it would be inside its container."""
    folder = tmp_path_factory.mktemp("cog")
    (folder / ".cog").mkdir()
    (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(cog_openapi(REQUIRED)))
    (folder / "run.py").write_text((ROOT / "run.py").read_text())
    python = python_with("cog==0.23.1", main_packages=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = os.environ | {"COG_PREDICT_TYPE_STUB": "run.py:Runner", "PORT": port, "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    command = [str(python), "-m", "cog.server.http", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    log = []
    reader = Thread(target=lambda: log.extend(process.stdout), daemon=True)
    reader.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as http:
            _wait_until_set_up(http, process, log)
            yield http
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked, coglet takes ten seconds
        process.wait(PATIENCE_S)
        reader.join(5)
        process.stdout.close()


def _wait_until_set_up(http, process, log):
    end = time.monotonic() + 2 * PATIENCE_S
    while time.monotonic() < end:
        assert process.poll() is None, b"".join(log).decode()
        try:
            status = http.get("/health-check").json()["status"]
        except httpx.TransportError:
            status = "STARTING"
        if status == "READY":
            return
        assert status == "STARTING", b"".join(log).decode()
        time.sleep(0.2)
    raise AssertionError(b"".join(log).decode())


def predict(cog, video, **more):
    """Ask a Cog server, again while the one slot that it has is not free yet."""
    answers = []

    def taken():
        answers.append(cog.post("/predictions", json={"input": {"input_video": video, **REAL, **more}}))
        return answers[-1].status_code != 409

    wait_until(taken)
    return answers[-1]


REAL = {"click_coordinates": "[245,60],[510,190]", "click_object_ids": "bunny,rock", "output_format": "png"}


@pytest.mark.parametrize(
    "drawn", [{}, {"mask_type": "highlighted", "annotation_type": "both", "output_frame_interval": 2}]
)
def test_the_cog_package_and_masklet_serve_give_the_same_pictures(cog, real, bunny, drawn):
    body = {"input": {"input_video": bunny, **REAL, **drawn}}
    theirs, ours = predict(cog, bunny, **drawn).json(), real.post("/predictions", json=body).json()
    assert (theirs["status"], ours["status"]) == ("succeeded", "succeeded"), theirs
    assert len(ours["output"]) == (1 if drawn else 2)
    assert ours["output"] == theirs["output"]
    assert "2/2" in theirs["logs"]


def test_under_cog_a_film_is_one_file_and_errors_say_why(cog, bunny):
    film = predict(cog, bunny, output_video=True).json()
    assert [uri.partition(",")[0] for uri in film["output"]] == ["data:video/mp4;base64"]
    failed = predict(cog, bunny, click_frames="77").json()
    assert failed["status"] == "failed"
    assert "77" in failed["error"]
    assert predict(cog, bunny, video_fps=99).status_code == 422


def test_under_cog_a_cancelled_one_stops_and_the_next_runs(cog, bunny, tmp_path):
    film = write_beginning_of_example(tmp_path / "longer.mp4", frames=12).read_bytes()
    long = {"input": {"input_video": f"data:video/mp4;base64,{base64.b64encode(film).decode()}", **REAL}}
    # Not before it runs: coglet 0.23.1 raises in whatever thread is there, and its own that fetches inputs dies of it.
    wait_until(lambda: "1/12" in cog.put("/predictions/stopped", json=long, headers={"Prefer": "respond-async"}).text)
    assert cog.post("/predictions/stopped/cancel").status_code == 200
    after = predict(cog, bunny)
    assert after.json()["status"] == "succeeded"
    assert "2/2" in after.json()["logs"]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Return a client of a server with the real model."""
    data_dir = tmp_path_factory.mktemp("data")
    with serving(data_dir, engine="real", OMP_NUM_THREADS="1") as server, server.client() as http:
        yield http
