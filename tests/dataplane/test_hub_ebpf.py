"""The hub's switch in the kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.hub_dataplane import HubDataplaneContract
from tests.dataplane.hub_lab import HubLab, KernelWorld, pinned_to_one_cpu


@pytest.fixture(scope="module")
def lab() -> Iterator[HubLab]:
    lab = HubLab()
    try:
        with pinned_to_one_cpu():
            lab.up()
            yield lab
    finally:
        lab.down()


class TestEBPFSwitch(HubDataplaneContract):
    """The contract."""

    @pytest.fixture
    def world(self, lab: HubLab) -> Iterator[KernelWorld]:
        world = KernelWorld(lab, mac_limit=64)
        yield world
        world.dataplane.stop()
