"""Tests of the service; their helpers' assertions explain themselves too."""

import pytest

pytest.register_assert_rewrite("server.clients.expected", "server.clients.talk", "server.serving")
