"""Replicate's HTTP API: predictions as its clients make, follow, list and cancel them."""

import io
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from server.serving import CLICK, FRAMES, HOSTED, mask_of, serving, wait_until_ended


@pytest.fixture
def create(http, video):
    """Return what posts a prediction: inputs and headers that differ from the usual."""

    def post(input=None, headers=None, path="/v1/predictions", **body):
        body = {"version": HOSTED, **body} if path == "/v1/predictions" else body
        given = {"input_video": video, **CLICK, "output_format": "png", **(input or {})}
        return http.post(path, json={"input": given, **body}, headers=headers or {})

    return post


def slow(frames="0"):
    """Return inputs of a prediction that takes a quarter of a second a frame."""
    return {"click_object_ids": "fault-slow"}


def masks(prediction):
    """Download the masks of a prediction."""
    pictures = [Image.open(io.BytesIO(httpx.get(url).raise_for_status().content)) for url in prediction["output"]]
    return [np.asarray(picture) > 127 for picture in pictures]


def test_a_prediction_is_accepted_runs_and_gives_one_mask_a_frame(create, http):
    answer = create()
    assert answer.status_code == 201
    assert answer.json()["status"] == "starting"
    assert answer.json()["output"] is None
    prediction = wait_until_ended(http, answer.json()["id"])
    assert prediction["status"] == "succeeded", prediction["error"]
    found = masks(prediction)
    assert len(found) == FRAMES
    for frame, mask in enumerate(found):
        np.testing.assert_array_equal(mask_of(frame), mask)


def test_it_has_every_field_that_clients_read(create, http):
    prediction = create(headers={"Prefer": "wait"}).json()
    assert re.fullmatch(r"[a-z0-9]{26}", prediction["id"])
    assert prediction["model"] == "meta/sam-2-video"
    assert prediction["version"] == HOSTED
    assert (prediction["source"], prediction["data_removed"], prediction["error"]) == ("api", False, None)
    created, started, completed = (prediction[name] for name in ("created_at", "started_at", "completed_at"))
    assert created <= started <= completed
    assert created.endswith("Z")
    assert prediction["metrics"]["predict_time"] > 0
    assert {"get", "cancel", "stream", "web", "manifest"} == set(prediction["urls"])
    assert prediction == http.get(prediction["urls"]["get"]).json()


def test_trap_4_no_url_is_ever_null_because_the_python_client_1_refuses_that(create, http):
    for prediction in (create().json(), create(headers={"Prefer": "wait"}).json()):
        assert all(isinstance(url, str) for url in prediction["urls"].values())


def test_inputs_are_echoed_unchanged(create, video):
    given = {"output_quality": 55, "click_coordinates": "[10, 20], [30,  31]", "click_labels": "1,0"}
    echoed = create(given).json()["input"]
    assert {"input_video": video, **CLICK, "output_format": "png", **given} == echoed


@pytest.mark.parametrize(
    "reference", [HOSTED, f"meta/sam-2-video:{HOSTED}", "meta/sam-2-video", "masklet/nano"], ids=lambda text: text[:20]
)
def test_a_version_may_be_an_id_a_name_or_both(create, reference):
    answer = create(version=reference)
    assert answer.status_code == 201, answer.text
    assert reference.partition(":")[0] in (HOSTED, answer.json()["model"])


def test_a_model_has_a_route_of_its_own(create):
    answer = create(path="/v1/models/meta/sam-2-video/predictions")
    assert answer.status_code == 201
    assert answer.json()["model"] == "meta/sam-2-video"


def test_every_older_version_that_callers_pinned_is_taken(create):
    from masklet.server.catalog import HOSTED_VERSIONS

    for version in HOSTED_VERSIONS:
        assert version == create(version=version).json()["version"]


@pytest.mark.parametrize("version", ["0" * 64, "meta/other", f"masklet/nano:{HOSTED}", "", "x" * 65])
def test_an_unknown_version_is_refused_in_replicates_words(create, version):
    answer = create(version=version)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "Invalid version or not permitted"


@pytest.mark.parametrize(
    ("wrong", "kind", "field", "says"),
    [
        ({"video_fps": 99}, "number_lte", "input.video_fps", "Must be less than or equal to 60"),
        ({"video_fps": 0}, "number_gte", "input.video_fps", "Must be greater than or equal to 1"),
        ({"output_frame_interval": 0}, "number_gte", "input.output_frame_interval", "equal to 1"),
        ({"mask_type": "red"}, "enum", "input.mask_type", 'one of the following: "binary", "highlighted"'),
        ({"output_video": 1}, "invalid_type", "input.output_video", "Expected: boolean, given: integer"),
        ({"video_fps": True}, "invalid_type", "input.video_fps", "Expected: integer, given: boolean"),
        ({"click_labels": None}, "invalid_type", "input.click_labels", "Expected: string, given: null"),
        ({"click_labels": "2"}, "format", "input.click_labels", "click_labels[0] = '2'"),
        ({"click_frames": "0,0,0"}, "format", "input.click_frames", "3 values"),
        ({"click_coordinates": "[1,nan]"}, "format", "input.click_coordinates", "click_coordinates[0]"),
        ({"click_lables": "1"}, "additional_property_not_allowed", "input.click_labels", "did you mean click_labels?"),
        ({"boxes": ["a:0:1,2,3"]}, "format", "input.boxes", "needs 4"),
        ({"boxes": "a:0:1,2,3,4"}, "invalid_type", "input.boxes", "array of strings"),
        ({"input_video": "/etc/passwd"}, "format", "input.input_video", "https URL"),
        ({"input_video": "file:///etc/passwd"}, "format", "input.input_video", "https URL"),
        ({"input_video": f"https://h.test/{'a' * 8_000}"}, "string_lte", "input.input_video", "the limit is 8000"),
        ({"input_video": "data:video/mp4;base64,!"}, "format", "input.input_video", "not base64"),
    ],
)
def test_a_wrong_input_is_named_with_its_value_and_its_limit(create, wrong, kind, field, says):
    answer = create(wrong)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    [found] = problem["invalid_fields"]
    assert (kind, field) == (found["type"], found["field"])
    assert says in found["description"]
    assert f"- {field}: {found['description']}\n" == problem["detail"]


def test_all_wrong_inputs_are_named_at_once(http):
    answer = http.post("/v1/predictions", json={"version": HOSTED, "input": {"video_fps": 99, "mask_type": "x"}})
    kinds = [(each["type"], each["field"]) for each in answer.json()["invalid_fields"]]
    assert kinds == [
        ("required", "input"),
        ("required", "input"),
        ("number_lte", "input.video_fps"),
        ("enum", "input.mask_type"),
    ]


def test_a_key_beside_input_that_the_api_does_not_have_is_refused(create):
    answer = create(model="meta/sam-2-video")
    assert answer.status_code == 422
    [found] = answer.json()["invalid_fields"]
    assert found["type"] == "additional_property_not_allowed"


def test_integers_may_be_written_as_json_numbers_with_a_fraction_of_zero(create):
    assert create({"output_quality": 50.0}).status_code == 201


def test_trap_8_what_a_broken_client_sends_by_mistake_is_neither_stored_nor_repeated(http, served, video):
    secret = "r8_aSecretThatMustNotStay123456"
    client = {"auth": secret, "userAgent": "replicate-javascript/1.4.0", "baseUrl": "http://127.0.0.1"}
    refused = http.post("/v1/predictions", json={"version": HOSTED, "input": client})
    assert refused.status_code == 422
    taken = http.post("/v1/predictions", json={"version": HOSTED, "input": {"input_video": video, **CLICK, **client}})
    assert taken.status_code == 201
    wait_until_ended(http, taken.json()["id"])
    assert secret not in refused.text + taken.text + http.get("/v1/predictions").text + str(served.log)
    for file in served.data_dir.rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_a_blocking_create_answers_with_the_end(create):
    answer = create(headers={"Prefer": "wait"})
    assert answer.status_code == 201
    assert answer.json()["status"] == "succeeded"
    assert len(answer.json()["output"]) == FRAMES


def test_trap_2_a_wait_that_is_over_too_early_answers_starting_with_no_output_never_processing(create, http):
    answer = create(slow(), headers={"Prefer": "wait=1"})
    assert answer.status_code == 202
    prediction = answer.json()
    assert (prediction["status"], prediction["output"]) == ("starting", None)
    assert answer.elapsed.total_seconds() < 1
    assert wait_until_ended(http, prediction["id"])["status"] == "succeeded"


def test_while_it_runs_outputs_grow_and_keep_their_addresses(create, http):
    id = create(slow()).json()["id"]
    seen = []
    while (prediction := http.get(f"/v1/predictions/{id}").json())["status"] in ("starting", "processing"):
        output = prediction["output"] or []
        assert seen == output[: len(seen)]
        seen = output
    assert prediction["status"] == "succeeded"
    assert len(seen) > 0
    assert seen == prediction["output"][: len(seen)]


def test_preferences_that_are_not_understood_are_left_out(create):
    for prefer in ("respond-async", "wait=soon", "handling=lenient"):
        assert create(headers={"Prefer": prefer}).json()["status"] == "starting"


def test_cancelling_stops_it_and_takes_its_outputs_back(create, http):
    id = create(slow()).json()["id"]
    while not http.get(f"/v1/predictions/{id}").json()["output"]:
        pass
    cancelled = http.post(f"/v1/predictions/{id}/cancel")
    assert cancelled.status_code == 200
    assert (cancelled.json()["status"], cancelled.json()["output"]) == ("canceled", None)
    assert http.get(f"/v1/predictions/{id}").json()["status"] == "canceled"


def test_cancelling_what_has_ended_changes_nothing(create, http):
    ended = create(headers={"Prefer": "wait"}).json()
    again = http.post(f"/v1/predictions/{ended['id']}/cancel").json()
    assert ended == again


def test_trap_3_a_deadline_cancels_and_is_never_called_aborted(create, http):
    answer = create(slow(), headers={"Cancel-After": "1s"}).json()
    assert answer["deadline"] > answer["created_at"]
    ended = wait_until_ended(http, answer["id"])
    assert ended["status"] == "canceled"
    assert ended["error_code"] == "E_DEADLINE"


@pytest.mark.parametrize("after", ["soon", "0s", "-1s", "1e3", "100h", "٣s".encode()])
def test_a_deadline_that_cannot_be_read_is_refused(create, after):
    answer = create(headers={"Cancel-After": after})
    assert answer.status_code == 422
    assert answer.json()["invalid_fields"][0]["field"] == "Cancel-After"


def test_the_same_idempotency_key_makes_one_prediction(create):
    key = {"Idempotency-Key": "the-one"}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: create(headers=key), range(100)))
    assert {201} == {answer.status_code for answer in answers}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_an_idempotency_key_with_another_request_is_refused(create):
    key = {"Idempotency-Key": "another"}
    create(headers=key)
    answer = create({"output_quality": 3}, headers=key)
    assert answer.status_code == 422
    assert answer.json()["title"] == "Idempotency key reused"


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_an_idempotency_key_has_bounds(create, key):
    assert create(headers={"Idempotency-Key": key}).status_code == 422


def test_trap_10_a_create_that_the_python_client_2_repeats_makes_one_prediction(create):
    first = create({"output_quality": 41}, headers={"x-stainless-retry-count": "0"}).json()
    again = create({"output_quality": 41}, headers={"x-stainless-retry-count": "1"}).json()
    other = create({"output_quality": 41}, headers={"x-stainless-retry-count": "0"}).json()
    assert first["id"] == again["id"]
    assert first["id"] != other["id"]


def test_a_video_may_come_in_a_data_uri_which_is_kept_as_a_file(http, clip):
    import base64

    uri = f"data:video/mp4;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    body = {"version": HOSTED, "input": {"input_video": uri, **CLICK, "output_format": "png"}}
    key = {"Idempotency-Key": "data"}
    answer = http.post("/v1/predictions", json=body, headers={"Prefer": "wait", **key})
    assert answer.json()["status"] == "succeeded", answer.text
    np.testing.assert_array_equal(mask_of(3), masks(answer.json())[3])
    kept = answer.json()["input"]["input_video"]
    assert len(clip.read_bytes()) == http.get(kept).json()["size"]
    assert answer.json()["id"] == http.post("/v1/predictions", json=body, headers=key).json()["id"]


def test_lists_are_newest_first_in_pages_that_lead_to_one_another(create, http):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: create(), range(101)))
    newest = create().json()["id"]
    first = http.get("/v1/predictions").json()
    assert len(first["results"]) == 100
    assert newest == first["results"][0]["id"]
    times = [each["created_at"] for each in first["results"]]
    assert sorted(times, reverse=True) == times
    assert first["previous"] is None
    second = http.get(first["next"]).json()
    both = [each["id"] for each in first["results"] + second["results"]]
    assert len(set(both)) == len(both) >= 102
    assert first["results"] == http.get(second["previous"]).json()["results"]
    for id in both:
        http.post(f"/v1/predictions/{id}/cancel")


def test_lists_can_be_cut_by_time(create, http):
    create()
    later = datetime.now(UTC) + timedelta(hours=1)
    assert http.get("/v1/predictions", params={"created_after": later.isoformat()}).json()["results"] == []
    assert http.get("/v1/predictions", params={"created_before": later.isoformat()}).json()["results"]
    assert http.get("/v1/predictions", params={"created_after": "yesterday"}).status_code == 422
    assert http.get("/v1/predictions", params={"cursor": "b1;drop"}).status_code == 422


def test_unknown_predictions_are_not_found(http):
    for method, path in (("GET", ""), ("POST", "/cancel")):
        answer = http.request(method, f"/v1/predictions/{'a' * 26}{path}")
        assert (answer.status_code, answer.json()["title"]) == (404, "Not found")


def test_a_failure_says_why_with_a_code_and_without_a_path(create, http, served):
    failed = create({"click_frames": "77"}, headers={"Prefer": "wait"}).json()
    assert (failed["status"], failed["error_code"]) == ("failed", "E_FRAME_RANGE")
    assert "77" in failed["logs"] + failed["error"] or "0..5" in failed["error"]
    assert str(served.data_dir) not in str(failed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 1, "input": {}}',
        b'{"input": {"a": NaN}, "version": "x"}',
        b'{"input": {}, "input": {}, "version": "x"}',
        b'\xef\xbb\xbf{"input": {}, "version": "x"}',
        '{"input": {}, "version": "x"}'.encode("utf-16"),
        b'{"input": {"a": 1e999}, "version": "x"}',
        b'{"input": {"a": "\\ud800"}, "version": "x"}',
        b'{"input": ' + b"[" * 100_000,
        b'{"input": {"a": ' + b"1" * 5_000 + b'}, "version": "x"}',
    ],
    ids=["empty", "cut", "list", "types", "nan", "twice", "bom", "utf16", "inf", "surrogate", "deep", "long"],
)
def test_bodies_that_are_not_plain_json_are_the_callers_mistake(http, body):
    answer = http.post("/v1/predictions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_over_the_limit_is_refused_before_it_is_sent(served):
    head = b"POST /v1/predictions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(served.url).port)) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_body_over_the_limit_that_does_not_say_so_is_refused_while_it_is_read(http):
    chunks = (b" " * 100_000 for _ in range(150))
    answer = http.post("/v1/predictions", content=chunks, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_webhook_addresses_must_be_addresses(create):
    answer = create(webhook="not a url")
    assert (answer.status_code, answer.json()["invalid_fields"][0]["field"]) == (422, "webhook")


def test_models_and_versions_are_listed_with_their_schemas(http):
    models = {f"{model['owner']}/{model['name']}": model for model in http.get("/v1/models").json()["results"]}
    assert {"meta/sam-2-video", "masklet/nano", "masklet/sam2.1-large"} <= set(models)
    [version] = http.get("/v1/models/meta/sam-2-video/versions").json()["results"]
    assert models["meta/sam-2-video"]["latest_version"] == version
    own = http.get(f"/v1/models/meta/sam-2-video/versions/{HOSTED}").json()
    assert own["id"] == HOSTED
    assert version["openapi_schema"] == own["openapi_schema"]
    assert http.get(f"/v1/models/masklet/nano/versions/{HOSTED}").status_code == 404


def test_a_model_counts_the_predictions_that_one_made_with_it(create, http):
    before = http.get("/v1/models/masklet/nano").json()["run_count"]
    create(version="masklet/nano")
    assert http.get("/v1/models/masklet/nano").json()["run_count"] == before + 1
    assert http.get("/v1/models/masklet/sam2.1-large").json()["run_count"] == 0


def test_what_clients_expect_beside_predictions_is_there(http):
    assert http.get("/v1/account").json()["username"] == "local"
    assert http.get("/v1/hardware").json()[0].keys() == {"sku", "name"}
    [collection] = http.get("/v1/collections").json()["results"]
    assert http.get(f"/v1/collections/{collection['slug']}").json()["models"]
    assert http.get("/v1/webhooks/default/secret").json()["key"].startswith("whsec_")
    assert [] == http.get("/v1/deployments").json()["results"] == http.get("/v1/trainings").json()["results"]
    found = http.request("QUERY", "/v1/models", content='"nano"').json()["results"]
    names = ["meta/sam-2-video", "masklet/nano", "masklet/nano-fine"]
    assert [f"{model['owner']}/{model['name']}" for model in found] == names
    assert "masklet/nano" in http.get("/v1/models/masklet/nano/readme").text
    assert http.get("/v1/models/meta/nothing").status_code == 404


def test_the_manifest_with_every_objects_masks_is_a_signed_address_too(create):
    prediction = create(headers={"Prefer": "wait"}).json()
    manifest = httpx.get(prediction["urls"]["manifest"]).json()
    assert len(manifest["frames"]) == FRAMES
    assert [each["name"] for each in manifest["objects"]] == ["square"]
    assert prediction["input"] == manifest["request"]


def test_trap_10_a_full_queue_is_429_with_the_time_to_wait_never_409_which_clients_repeat(tmp_path):
    flags = ["--workers", "0", "--waiting", "3", "--waiting-per-owner", "2"]
    with serving(tmp_path, *flags, ready=False) as server, server.client() as http:
        body = {"version": HOSTED, "input": {"input_video": "https://example.com/dog.mp4", **CLICK}}
        answers = [http.post("/v1/predictions", json=body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[2].headers["retry-after"] == "5"
    assert answers[2].json()["detail"].startswith("Request was throttled.")


def test_a_disk_without_room_takes_nothing_new_and_says_so(tmp_path):
    with (
        serving(tmp_path, "--workers", "0", "--room-bytes", str(2**60), ready=False) as server,
        server.client() as http,
    ):
        body = {"version": HOSTED, "input": {"input_video": "https://example.com/dog.mp4", **CLICK}}
        for answer in (http.post("/v1/predictions", json=body), http.post("/v1/files", files={"content": b"frames"})):
            assert (answer.status_code, answer.headers["retry-after"]) == (507, "60")
            assert str(tmp_path) not in answer.text
        assert http.get("/readyz").status_code == 503
