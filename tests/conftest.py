"""What every test gets: no network but this machine's own, a hub cache of its own, one thread a worker, the same dice.

Settings that libraries read once, when they are imported, are made here at import; processes that tests start get them.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

GUARD = str(Path(__file__).parent / "guard")
HOME = tempfile.TemporaryDirectory(prefix="masklet-tests-")

sys.path.insert(0, GUARD)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (GUARD, os.environ.get("PYTHONPATH"))))
os.environ["HF_HOME"] = HOME.name
for setting in ("HF_ENDPOINT", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HUGGINGFACE_HUB_CACHE"):
    os.environ.pop(setting, None)
if "PYTEST_XDIST_WORKER" in os.environ:  # several workers with several threads each would wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"

import loopback  # noqa: E402

# Machines that run tests are slow and busy: tests are timed only where a requirement is a time.
settings.register_profile("masklet", deadline=None, print_blob=True)
settings.load_profile("masklet")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than about ten seconds")
    if "torch" in sys.modules and "PYTEST_XDIST_WORKER" in os.environ:
        sys.modules["torch"].set_num_threads(1)


def pytest_unconfigure(config):
    HOME.cleanup()


@pytest.fixture(autouse=True)
def same_dice():
    random.seed(7)
    np.random.seed(7)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(7)


@pytest.fixture(autouse=True)
def nobody_calls_out():
    loopback.tried.clear()
    yield
    assert loopback.tried == [], "a test tried to reach another machine"
