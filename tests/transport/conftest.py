"""Two namespaces with a cable, for the tests on real sockets."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.transport.cable import Lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The namespaces, made once."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    lab = Lab()
    try:
        lab.create()
        yield lab
    finally:
        lab.remove()
