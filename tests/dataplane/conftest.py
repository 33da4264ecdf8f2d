"""Network namespaces for the tests that make devices and entries there: a spoke's, and a hub's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataplane.hub_lab import HubLab, pinned_to_one_cpu
from tests.dataplane.site import Site


@pytest.fixture(scope="module")
def namespace() -> Iterator[Site]:
    """One namespace for all tests of a module; each leaves it as it was."""
    site = Site()
    site.create()
    yield site
    site.remove()


@pytest.fixture(scope="module")
def laboratory() -> Iterator[HubLab]:
    """A hub between sites, for all tests of a module."""
    lab = HubLab()
    try:
        with pinned_to_one_cpu():
            lab.up()
            yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def lab(laboratory: HubLab) -> HubLab:
    """The same, for tests that leave it as it was."""
    return laboratory


@pytest.fixture
def site(namespace: Site) -> Iterator[Site]:
    """The site, and after each test a look at what was left in it."""
    with namespace.cleared():
        yield namespace
