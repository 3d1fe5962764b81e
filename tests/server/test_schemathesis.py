"""Requests made up from the OpenAPI document: the server never fails, answers as promised, and asks for every token."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from masklet.server.app import openapi_document
from server.serving import CLICK, HOSTED, TOKEN, serving, wait_until_ended

EXAMPLES = 8
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.allow_header_conformance,
    checks.ignored_auth,
    checks.use_after_free,
]
"""All but these: that valid data are accepted (no schema can say which click strings mean something), and that methods
which are not in the document are refused (OpenAPI 3.1 has no word for QUERY, with which clients search)."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("data"), "--token", TOKEN, "--body-idle-s", "2") as server:
        yield server


@pytest.fixture(scope="module")
def document(server):
    found = httpx.get(f"{server.url}/openapi.json").json()
    assert found == openapi_document()
    return found


SCHEMA = schemathesis.openapi.from_dict(openapi_document())
SCHEMA.config.output.sanitization.update(enabled=False)


@SCHEMA.exclude(path="/shutdown").parametrize()
@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
)
def test_every_operation_keeps_its_promises(case, server):
    own = {"Authorization": f"Bearer {TOKEN}"}
    # The one path that can be asked with QUERY says so in Allow, and the document cannot.
    wanted = [check for check in CHECKS if case.path != "/v1/models" or check is not checks.allow_header_conformance]
    case.call_and_validate(base_url=server.url, headers=own, checks=wanted, timeout=30)


def test_the_document_has_every_route_that_clients_call(document):
    paths = set(document["paths"])
    assert {
        "/v1/predictions",
        "/v1/predictions/{id}",
        "/v1/predictions/{id}/cancel",
        "/v1/models/{owner}/{name}/predictions",
        "/v1/models/{owner}/{name}/versions/{id}",
        "/v1/files",
        "/v1/files/{id}/stream",
        "/v1/outputs/{id}/{name}",
        "/predictions",
        "/predictions/{prediction_id}",
        "/health-check",
        "/healthz",
        "/metrics",
    } <= paths


def test_everything_in_it_is_explained_and_every_reference_leads_somewhere(document):
    schemas = document["components"]["schemas"]

    def walk(value):
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].rpartition("/")[2] in schemas, value["$ref"]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], f"{method} {path}"
            assert all(answer["description"] for answer in operation["responses"].values())


def test_what_needs_a_token_says_so_in_the_document(document, server):
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            asked = path.replace("{owner}", "meta").replace("{name}", "sam-2-video").replace("{slug}", "x")
            asked = asked.replace("{id}", "a" * 26).replace("{prediction_id}", "x")
            answer = httpx.request(method.upper(), server.url + asked)
            assert ("security" in operation) == (answer.status_code == 401), f"{method} {path}"


def test_the_page_for_people_has_every_operation_and_needs_no_other_server(document, server):
    page = httpx.get(f"{server.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text.replace("https URL", "").replace("An https", "")
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page.text


def test_answers_of_a_real_run_fit_the_document(server, clip):
    own = {"Authorization": f"Bearer {TOKEN}"}

    def ask(method, path, **more):
        answer = SCHEMA[path][method].Case(headers=own, **more).call(base_url=server.url, timeout=60)
        SCHEMA[path][method].validate_response(answer)
        assert answer.status_code < 400, answer.text
        return answer.json()

    with server.client(TOKEN) as http:
        file = http.post("/v1/files", files={"content": clip.read_bytes()}).json()
    inputs = {"input_video": file["urls"]["get"], **CLICK}
    made = ask("POST", "/v1/predictions", body={"version": HOSTED, "input": inputs}, media_type="application/json")
    asked = {"path_parameters": {"id": made["id"]}}
    ask("GET", "/v1/predictions/{id}", **asked)
    with server.client(TOKEN) as http:
        wait_until_ended(http, made["id"])
    assert ask("GET", "/v1/predictions/{id}", **asked)["output"]
    assert ask("POST", "/v1/predictions/{id}/cancel", **asked)["status"] == "succeeded"
    assert ask("GET", "/v1/predictions")["results"]
    assert ask("GET", "/v1/files/{id}", path_parameters={"id": file["id"]}) == file
    assert ask("POST", "/predictions", body={"input": inputs}, media_type="application/json")["output"]
    for path in ("/health", "/health-check", "/readyz", "/v1/models", "/v1/files", "/v1/account"):
        ask("GET", path)
