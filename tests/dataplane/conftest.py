"""A spoke's site in a network namespace, for the tests that make devices and entries there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.site import Site


@pytest.fixture(scope="module")
def namespace() -> Iterator[Site]:
    """One namespace for all tests of a module; each leaves it as it was."""
    site = Site()
    site.create()
    yield site
    site.remove()


@pytest.fixture
def site(namespace: Site) -> Iterator[Site]:
    """The site, and after each test a look at what was left in it."""
    with namespace.cleared():
        yield namespace
