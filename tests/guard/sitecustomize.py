"""Python runs this at the start of every process that a test starts, as `conftest.py` puts the folder on PYTHONPATH."""

import loopback  # noqa: F401
