"""The metadata address of a cloud, where it really answers: no way through the service's door leads there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

TESTS = Path(__file__).parents[1]
ALONE = ("unshare", "--user", "--map-root-user", "--net")
"""A network name space of its own, with nothing in it but what the program puts there."""


def test_the_metadata_address_is_never_asked():
    if which("ip") is None or which("unshare") is None or subprocess.run([*ALONE, "true"]).returncode != 0:
        pytest.skip("this machine makes no network name spaces for users")
    # Without the tests' own guard on PYTHONPATH, which would refuse the connections that the service must refuse.
    variables = os.environ | {"PYTHONPATH": str(TESTS)}
    command = [*ALONE, sys.executable, "-m", "server.metadata"]
    ran = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300)
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["guarded"]["hits"] == 0
    assert said["guarded"]["redirects"] == 1
    assert set(said["guarded"]["ends"].values()) == {"E_URL_FORBIDDEN"}
    asked = [name for name, end in said["open"]["ends"].items() if end == "it was asked"]
    assert said["open"]["hits"] == len(asked) >= 15, "the tries would get there if nothing stopped them"
