"""The status page in a browser, in front of a hub with five sites: ``make page-test``."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.browser import Browser
from lab.daemons import Daemon
from lab.topology import VM, Lab
from lab.wait import eventually

PREFIX = "dmpage"
SITES = range(2, 7)
#: Pairs of sites that talk in VPN 1, and in VPN 2.
TALKS = {1: ((2, 3), (3, 4), (5, 6), (2, 5)), 2: ((4, 6),)}
PICTURE = Path(__file__).parents[1] / "docs" / "status-page.png"
URL = "http://127.0.0.1:9102/"


class Stage(NamedTuple):
    """What the page is about."""

    lab: Lab
    hub: Daemon
    sites: dict[int, Daemon]
    vms: dict[tuple[int, int], VM]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A hub and five sites that talk."""
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(PREFIX))
        daemons = [
            Daemon(
                lab.add_machine("hub", 1).namespace,
                lab.directory,
                "hub",
                "status tcp:9102\ninterface nhrp\ninterface vx0\n"
                "    controller nhrp\n    vpn-id 1-2\n    l2learnonly\n    provision\n",
            )
        ]
        vms: dict[tuple[int, int], VM] = {}
        for number in SITES:
            machine = lab.add_machine(f"site{number}", number)
            text = "status tcp:9102\ninterface nhrp\n"
            for vpn in (1, 2) if number in (4, 6) else (1,):
                text += (
                    f"interface vx{vpn}\n    controller nhrp\n    vpn-id {vpn}\n"
                    f"    default-vni {vpn}0{number} 10.0.0.1 register\n    provision br{vpn}\n"
                )
                name = f"vm{number}{vpn}"
                vms[number, vpn] = lab.add_vm(
                    name, f"52:54:00:00:0{vpn}:0{number}", f"11.0.{vpn}.{number}/24"
                )
            daemons.append(Daemon(machine.namespace, lab.directory, f"site{number}", text))
        for daemon in daemons:
            stack.callback(daemon.assert_sound)
            stack.callback(daemon.stop)
            daemon.start()
        for (number, vpn), vm in vms.items():
            vm.plug(lab.machines[f"site{number}"], f"br{vpn}")
        hub = daemons[0]
        eventually("seven members", lambda: len(hub.ctl.rows("member", "show")) == 7, timeout=30)
        talks: list[tuple[VM, tuple[str, ...]]] = [
            (vms[one, vpn], ("-i", "0.01", "-s", "1000", str(vms[two, vpn].address)))
            for vpn, pairs in TALKS.items()
            for one, two in pairs
        ]
        # Broadcasts go by way of the hub for ever.
        for number, octets, pause in ((2, "900", "0.02"), (4, "1300", "0.005"), (6, "300", "0.05")):
            words = ("-b", "-i", pause, "-s", octets, "11.0.1.255")
            talks.append((vms[number, 1], words))
        pings = [
            subprocess.Popen(
                vm.namespace.command("ping", "-q", *words),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for vm, words in talks
        ]
        try:
            yield Stage(lab, hub, dict(zip(SITES, daemons[1:], strict=True)), vms)
        finally:
            for each in pings:
                each.terminate()
                each.wait()


@pytest.fixture
def browser(stage: Stage, tmp_path: Path) -> Iterator[Browser]:
    """A browser at the hub."""
    with Browser(stage.hub.namespace.command(), tmp_path) as browser:
        yield browser
        assert browser.complaints == []


LIVE = "document.querySelector('#connection')?.dataset.state === 'live'"
BOXES = "document.querySelectorAll('#map .site').length"
SHORTCUTS = "document.querySelectorAll('#map path.shortcut').length"
ROWS = "document.querySelectorAll('#rows tr').length"


def test_hub(stage: Stage, browser: Browser) -> None:
    """The map has every site and the shortcuts between them, and tells what the hub carries."""
    browser.open(URL)
    browser.wait("the page to be live", LIVE)
    browser.wait("five sites", f"{BOXES} === 5")
    browser.wait("shortcuts", f"{SHORTCUTS} === 5", timeout=40)
    browser.wait("rates", "document.querySelectorAll('#map .spoke-line.carries').length === 5")
    names = browser.find(
        "[...document.querySelectorAll('#map .site .name')].map(e => e.textContent)"
    )
    assert sorted(names) == [f"10.0.0.{number}" for number in SITES]
    browser.wait("a table", f"{ROWS} === 7")
    stage.sites[6].stop()
    browser.wait("a site less", f"{BOXES} === 4")
    stage.sites[6].start()
    browser.wait("it again", f"{BOXES} === 5")
    browser.wait("shortcuts again", f"{SHORTCUTS} === 5", timeout=40)
    changes = browser.find("document.querySelector('#changes').textContent")
    assert "purged" in changes and "added" in changes
    if os.environ.get("PICTURE"):
        browser.find("new Promise(done => setTimeout(() => done(true), 9000))")
        browser.picture(PICTURE)
    light = browser.find("getComputedStyle(document.body).backgroundColor")
    browser.prefer("dark")
    assert browser.find("getComputedStyle(document.body).backgroundColor") != light


def test_search(stage: Stage, browser: Browser) -> None:
    """What is typed is looked for, in the table that was chosen with the keyboard."""
    browser.open(URL)
    browser.wait("a table", f"{ROWS} === 7")
    browser.find("document.querySelector('#tab-member').focus()")
    browser.press("ArrowRight")
    chosen = "document.querySelector('[aria-selected=true]').textContent"
    assert browser.find(chosen) == "Bindings"
    browser.wait("bindings", f"{ROWS} > 10")
    browser.find("document.querySelector('#search').focus()")
    browser.type("52:54:00:00:01:05")
    browser.wait("one binding", f"{ROWS} === 1")
    assert "52:54:00:00:01:05" in browser.find("document.querySelector('#rows').textContent")


def test_one_vpn(stage: Stage, browser: Browser) -> None:
    """The choice of a VPN narrows map and table, and a reload of the page keeps it."""
    browser.open(f"{URL}#vpn=2")
    browser.wait("two sites", f"{BOXES} === 2 && {SHORTCUTS} === 1 && {ROWS} === 2")


def test_spoke(stage: Stage, tmp_path: Path) -> None:
    """A spoke shows itself, its hub, and the sites that it reaches directly."""
    with Browser(stage.sites[2].namespace.command(), tmp_path) as browser:
        browser.open(URL)
        browser.wait("shortcuts to sites 3 and 5", f"{SHORTCUTS} === 2")
        assert browser.find("document.querySelector('#map .here .name').textContent") == "10.0.0.2"
        assert browser.find("document.querySelector('#map .hub .name').textContent") == "10.0.0.1"
        browser.wait(
            "traffic past the hub",
            "/direct/.test(document.querySelector('#map .here').textContent)",
        )
        browser.wait("registrations", "document.querySelector('#tab-registration').click(), true")
        browser.wait("one registration", f"{ROWS} === 1")
        if os.environ.get("PICTURE"):
            browser.picture(PICTURE.with_name("status-page-spoke.png"))
        assert browser.complaints == []


def test_nothing_can_be_loaded_from_elsewhere(stage: Stage, browser: Browser) -> None:
    """The browser itself refuses what is not ours."""
    browser.open(URL)
    browser.wait("the page", LIVE)
    assert (
        browser.find("fetch('http://127.0.0.2:9102/').then(() => 'loaded', () => 'refused')")
        == "refused"
    )
    assert browser.complaints != []
    browser.complaints.clear()
