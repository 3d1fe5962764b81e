"""The real clients, each installed once into a folder of its own beside pip's cache."""

import fcntl
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import platformdirs
import pytest

CACHE = Path(platformdirs.user_cache_dir("masklet-tests", appauthor=False))
INSTALL_S = 300
MAIN_PACKAGES = "main_packages.pth"


def python_with(*requirements, main_packages=False):
    """Return a Python that has some packages, and with `main_packages` also those of the tests' own environment."""
    main = Path(pytest.__file__).parent.parent
    # Another checkout's environment holds another masklet.
    behind = [f"main{zlib.crc32(bytes(main)):08x}"] if main_packages else []
    name = "-".join([f"py{sys.version_info.major}{sys.version_info.minor}", *requirements, *behind])

    def make(folder):
        _run([sys.executable, "-m", "venv", folder])
        _run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *requirements])
        if main_packages:
            [packages] = folder.glob("lib/python*/site-packages")
            # Behind the environment's own; addsitedir also follows the links of editable installs.
            (packages / MAIN_PACKAGES).write_text(f"import site; site.addsitedir({str(main)!r})\n")

    return _cached(name, make) / "bin" / "python"


def node_with(package):
    """Return the folder in which node finds a package."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        _give_up("node and npm are not installed")
    return _cached(f"node-{package}", lambda folder: _npm(folder, package))


def _npm(folder, package):
    folder.mkdir()
    (folder / "package.json").write_text("{}")
    _run(["npm", "install", "--silent", "--no-audit", "--no-fund", package], cwd=folder)


def _cached(name, make):
    folder = CACHE / name.replace("=", "").replace("/", "-").replace("@", "-")
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            try:
                make(folder)
            except (subprocess.SubprocessError, OSError) as error:
                shutil.rmtree(folder, ignore_errors=True)
                _give_up(f"{name} cannot be installed: {error}")
            (folder / "whole").touch()
    return folder


def _run(command, **more):
    # Installing is the one thing that may leave this machine: the tests' guard is not passed on.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(command, check=True, timeout=INSTALL_S, env=environment, stdin=subprocess.DEVNULL, **more)


def _give_up(why):
    """Skip where there is no network; where everything must be there, fail."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
