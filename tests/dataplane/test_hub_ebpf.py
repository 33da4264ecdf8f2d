"""The hub's switch in the kernel: the contract, and what only a kernel can do or refuse."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactorClock

from dmevpn.addresses import VTEP
from dmevpn.dataplane import hub_ebpf
from dmevpn.dataplane.ebpf import layout, libbpf
from dmevpn.dataplane.ebpf.layout import NUMBER
from dmevpn.dataplane.ebpf.libbpf import MapShape
from dmevpn.dataplane.hub_device import PRIORITY
from dmevpn.dataplane.hub_ebpf import EBPFSwitch
from dmevpn.dataplane.hub_macs import EDITS_PER_RUN
from dmevpn.errors import DataplaneError, StartError
from dmevpn.interfaces import HubListener, Registration, VPNRules
from dmevpn.metrics import Metrics
from tests.contracts.hub_dataplane import (
    BROADCAST,
    HUB_IPV4,
    A,
    B,
    C,
    D,
    HubDataplaneContract,
    frame,
    ipv4,
    mac,
)
from tests.dataplane.hub_lab import DEVICE, PIN_ROOT, HubLab, KernelWorld

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

HANDMADE = "ip link add vx0 type vxlan external dstport 4789"

#: A filter as an operator may have added one.
RULE = ("protocol", "all", "pref", "7", "bpf", "bytecode", "1,6 0 0 0", "flowid", "1:1")


@pytest.fixture
def world(lab: HubLab) -> Iterator[KernelWorld]:
    world = KernelWorld(lab)
    yield world
    world.dataplane.stop()


class TestEBPFSwitch(HubDataplaneContract):
    """The contract."""

    @pytest.fixture
    def world(self, lab: HubLab) -> Iterator[KernelWorld]:
        world = KernelWorld(lab)
        yield world
        world.dataplane.stop()


def pins() -> list[str]:
    """What is pinned below the root of the tests."""
    return [name for _, _, names in os.walk(PIN_ROOT) for name in names]


def descriptors() -> set[str]:
    """This process's open descriptors of eBPF things."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if "bpf" in target:
            found.add(f"{name} {target}")
    return found


class TestLife:
    """Start, stop, and what is found or left on the machine."""

    def test_clean_stop(self, lab: HubLab) -> None:
        """A clean stop leaves no filter, no qdisc, no pin, no descriptor and no timer."""
        before = descriptors()
        world = KernelWorld(lab)
        assert f"pref {PRIORITY}" in lab.filters()
        assert "hub_switch" in lab.filters()
        assert pins()
        world.join(1, A)
        world.dataplane.remove_member(1, A)
        world.dataplane.stop()
        assert lab.filters() == ""
        assert "clsact" not in lab.qdiscs()
        assert pins() == []
        assert not os.path.exists(PIN_ROOT)
        assert descriptors() == before
        assert world.reactor.getDelayedCalls() == []
        assert world.reactor.getReaders() == []

    def test_clean_stop_of_a_successor(self, world: KernelWorld) -> None:
        """Also when an earlier daemon was killed."""
        world.kill()
        world.restart()
        world.dataplane.stop()
        assert "clsact" not in world.lab.qdiscs()
        assert pins() == []

    def test_a_daemon_killed_with_9(self, lab: HubLab) -> None:
        """`kill -9` leaves a switch that forwards, and a new daemon takes it over."""
        script = textwrap.dedent(f"""
            import time
            from twisted.internet.testing import MemoryReactorClock
            from dmevpn.addresses import VTEP
            from dmevpn.dataplane.hub_ebpf import EBPFSwitch
            from dmevpn.interfaces import HubListener, Registration, VPNRules
            from dmevpn.metrics import Metrics
            switch = EBPFSwitch(MemoryReactorClock(), Metrics(), {DEVICE!r}, pin_root={PIN_ROOT!r})
            switch.start(HubListener())
            switch.add_vpn(1, VPNRules())
            for nbma, vni in (({A.nbma!r}, {A.vni}), ({B.nbma!r}, {B.vni})):
                switch.add_member(1, VTEP(nbma, vni), b"", Registration(bytes(6), False, 3600))
            print("up", flush=True)
            time.sleep(60)
        """)
        child = subprocess.Popen(
            lab.hub.command(sys.executable, "-c", script),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert child.stdout is not None
        with child, child.stdout:
            assert child.stdout.readline() == b"up\n"
            # Whoever is killed is the daemon itself: nsenter has become it.
            child.kill()
        world = KernelWorld(lab)
        assert sorted(member[1] for member in world.adopted()) == [A, B]
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]
        world.dataplane.stop()

    def test_replacing_loses_no_frame(self, world: KernelWorld) -> None:
        """A daemon's restart under traffic is not noticed."""
        world.join(1, A, B)
        world.learn(B, mac(2))
        for number in range(10):
            world.kill()
            world.send(A, frame(mac(2), mac(1), b"%d" % number))
            world.restart()
        assert len(world.deliveries()) == 10

    def test_one_daemon_per_device(self, world: KernelWorld) -> None:
        """Two daemons on one device are told apart before they fight over it."""
        second = world.make()
        with world.lab.hub.entered(), pytest.raises(StartError, match="another dmevpn daemon"):
            second.start(HubListener())
        world.join(1, A, B)
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]

    def test_namespaces_do_not_share_a_switch(self, world: KernelWorld, lab: HubLab) -> None:
        """Hubs in two containers may name their devices alike."""
        lab.sites.ip("link", "add", DEVICE, "type", "vxlan", "external", "dstport", "4790")
        try:
            other = world.make()
            with lab.sites.entered():
                other.start(HubListener())
            world.join(1, A)
            assert len(other._members) == 0
            other.stop()
            assert "clsact" in lab.qdiscs()
            assert pins()
        finally:
            lab.sites.ip("link", "del", DEVICE)

    def test_other_filters_stay(self, lab: HubLab) -> None:
        """An operator's own tc filters on the device survive us, with the qdisc they need."""
        lab.hub.run("tc", "qdisc", "add", "dev", DEVICE, "clsact")
        lab.hub.run("tc", "filter", "add", "dev", DEVICE, "ingress", *RULE)
        try:
            KernelWorld(lab).dataplane.stop()
            assert "pref 7" in lab.filters()
            lab.hub.run("tc", "filter", "del", "dev", DEVICE, "ingress")
            KernelWorld(lab).dataplane.stop()
            assert "clsact" in lab.qdiscs()
        finally:
            lab.hub.run("tc", "qdisc", "del", "dev", DEVICE, "clsact")

    def test_filter_added_to_our_qdisc(self, lab: HubLab) -> None:
        """Nor does a filter go that was added to the qdisc that we made."""
        world = KernelWorld(lab)
        lab.hub.run("tc", "filter", "add", "dev", DEVICE, "egress", *RULE)
        world.dataplane.stop()
        assert "pref 7" in lab.hub.run("tc", "filter", "show", "dev", DEVICE, "egress").stdout
        lab.hub.run("tc", "qdisc", "del", "dev", DEVICE, "clsact")

    def test_somebody_else_at_our_place(self, world: KernelWorld) -> None:
        """A foreign program is never replaced; the message says how to remove it."""
        world.kill()
        for name in pins():
            if name.startswith("program_"):
                (path,) = Path(PIN_ROOT).rglob(name)
                path.unlink()
        with (
            world.lab.hub.entered(),
            pytest.raises(StartError, match=f"tc filter del dev vx0 ingress pref {PRIORITY}"),
        ):
            world.make().start(HubListener())
        world.lab.hub.run("tc", "filter", "del", "dev", DEVICE, "ingress", "pref", str(PRIORITY))
        world.restart()

    def test_device_that_went_away(self, lab: HubLab) -> None:
        """Stopping after the device was removed is no error."""
        world = KernelWorld(lab)
        lab.hub.ip("link", "del", DEVICE)
        try:
            world.dataplane.stop()
            assert pins() == []
        finally:
            lab.add_device()

    def test_maps_of_another_build(self, world: KernelWorld) -> None:
        """Maps that do not fit this build are replaced, all of them, not misread."""
        world.join(1, A)
        world.kill()
        (path,) = Path(PIN_ROOT).rglob("keepsakes")
        path.unlink()
        world.restart()
        assert world.adopted() == []
        world.join(1, A, B)
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]

    def test_pins_of_another_layout(self, world: KernelWorld) -> None:
        """After an update the old version's maps are let go."""
        path = Path(world.dataplane._pins.path)
        world.dataplane.stop()
        old = Path(PIN_ROOT, "v0", path.name)
        old.mkdir(parents=True)
        world.restart()
        assert path.exists()
        assert not old.exists()
        old.parent.rmdir()

    def test_provisioned_device(self, lab: HubLab) -> None:
        """A device that was made for the switch goes with it."""
        lab.hub.ip("link", "del", DEVICE)

        class Device:
            def remove(self) -> None:
                lab.hub.ip("link", "del", DEVICE)

            def close(self) -> None:
                raise AssertionError

            def restore(self) -> None:
                raise AssertionError

            def fault(self, link: object) -> str:
                return ""

        def make() -> Device:
            lab.add_device()
            return Device()

        try:
            world = KernelWorld(lab, provision=make)
            assert world.dataplane.station_mac
            world.dataplane.stop()
            assert DEVICE not in lab.hub.devices()
        finally:
            lab.add_device()

    def test_provisioned_device_of_a_failed_start(
        self, lab: HubLab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A start that fails leaves no device, no pin and no qdisc."""
        removed: list[str] = []

        class Device:
            def remove(self) -> None:
                removed.append("removed")

            def close(self) -> None:
                removed.append("left")

        monkeypatch.setattr(hub_ebpf, "_OBJECT", Path("/nonexistent.o"))
        with pytest.raises(StartError, match=r"/nonexistent\.o: No such file"):
            KernelWorld(lab, provision=Device)
        assert removed == ["removed"]
        assert pins() == []
        assert "clsact" not in lab.qdiscs()

    def test_failed_start_beside_a_running_daemon(self, world: KernelWorld) -> None:
        """Starting a second daemon by mistake does the first one no harm."""
        provisioned: list[None] = []
        world._options["provision"] = lambda: provisioned.append(None)
        with world.lab.hub.entered(), pytest.raises(StartError, match="another dmevpn daemon"):
            world.make().start(HubListener())
        assert provisioned == []

    def test_failed_start_after_a_kill(
        self, world: KernelWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A successor that cannot start leaves the switch of the killed daemon forwarding."""
        done: list[str] = []

        class Device:
            def remove(self) -> None:
                done.append("removed")

            def close(self) -> None:
                done.append("left")

            def fault(self, link: object) -> str:
                return ""

        world.join(1, A, B)
        world.kill()
        with monkeypatch.context() as patch:
            patch.setattr(hub_ebpf, "_OBJECT", Path("/nonexistent.o"))
            world._options["provision"] = Device
            with world.lab.hub.entered(), pytest.raises(StartError):
                world.make().start(HubListener())
        assert done == ["left"]
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]
        world.restart()
        assert len(world.adopted()) == 2


class TestRefusals:
    """One line each that names the place and the cure."""

    def start(self, lab: HubLab, interface: str) -> EBPFSwitch:
        switch = EBPFSwitch(MemoryReactorClock(), Metrics(), interface, pin_root=PIN_ROOT)
        with lab.hub.entered():
            switch.start(HubListener())
        return switch

    def test_no_device(self, lab: HubLab) -> None:
        """A device that is missing can be made by the command that is shown."""
        with pytest.raises(StartError, match=HANDMADE.replace("vx0", "vx9")):
            self.start(lab, "vx9")

    def test_not_vxlan(self, lab: HubLab) -> None:
        """A device of another kind is named as such."""
        with pytest.raises(StartError, match="interface ul0: not a vxlan device"):
            self.start(lab, "ul0")

    def test_not_external(self, lab: HubLab) -> None:
        """A spoke's device is no hub's."""
        lab.hub.ip("link", "add", "vx5", "type", "vxlan", "id", "5", "dstport", "4795")
        with pytest.raises(StartError, match=r"not an external .* ip link del vx5; ip link add"):
            self.start(lab, "vx5")
        lab.hub.ip("link", "del", "vx5")

    def test_name_with_a_dot(self, lab: HubLab) -> None:
        """A bpffs refuses dots, the user's device names need not."""
        options = ("type", "vxlan", "external", "dstport", "4795")
        lab.hub.ip("link", "add", "vx5.1", *options)
        try:
            switch = self.start(lab, "vx5.1")
        except StartError as error:
            pytest.fail(str(error))
        finally:
            lab.hub.ip("link", "del", "vx5.1")
        switch.stop()

    def test_no_privilege(self, lab: HubLab) -> None:
        """Without capabilities the daemon says which it needs."""
        assert self.run_without(lab, "--inh-caps=-all", "--bounding-set=-all") == (
            "loading the switch is not permitted: run as root, "
            "or with the capabilities CAP_BPF and CAP_NET_ADMIN"
        )

    def test_least_privilege(self, lab: HubLab) -> None:
        """CAP_BPF and CAP_NET_ADMIN are enough to load the switch and to attach it."""
        capabilities = "-all,+bpf,+net_admin"
        try:
            said = self.run_without(lab, "--inh-caps=-all", f"--bounding-set={capabilities}")
            assert said == ""
            assert "hub_switch" in lab.filters()
        finally:
            # The process has ended as if it had been killed: a successor cleans up.
            KernelWorld(lab).dataplane.stop()

    def test_root_directory_of_another_user(self, lab: HubLab) -> None:
        """A user who may not pin is told who must own the directory."""
        self.start(lab, DEVICE).stop()  # root's daemon was here, and has mounted the bpffs
        Path(PIN_ROOT).mkdir(exist_ok=True)
        said = self.run_without(lab, user=65534)
        assert said.endswith(f"the daemon's user must own {PIN_ROOT}")

    @staticmethod
    def run_without(lab: HubLab, *options: str, user: int = 0) -> str:
        # The user changes after the imports: the checkout may be in root's own directory.
        script = textwrap.dedent(f"""
            import os
            from twisted.internet.testing import MemoryReactorClock
            from dmevpn.dataplane.hub_ebpf import EBPFSwitch
            from dmevpn.errors import StartError
            from dmevpn.interfaces import HubListener
            from dmevpn.metrics import Metrics
            if {user}:
                os.setgroups([])
                os.setresuid({user}, {user}, {user})
            try:
                EBPFSwitch(MemoryReactorClock(), Metrics(), {DEVICE!r}, pin_root={PIN_ROOT!r}
                    ).start(HubListener())
            except StartError as error:
                print(error)
        """)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            lab.hub.command(
                *(["setpriv", *options] if options else []), sys.executable, "-c", script
            ),
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.stderr == ""
        return done.stdout.strip()


class TestObject:
    """The compiled program as such."""

    def test_stack_is_written_in_whole_words(self) -> None:
        """The object loads without CAP_PERFMON on older kernels, too, than that of this machine.

        Linux 6.1 refuses narrow writes that newer kernels let pass.
        """
        memory_classes, width_mask, double_word = (0x02, 0x03), 0x18, 0x18
        frame_pointer = 10
        narrow = [
            f"{section} {offset // 8}: {code[offset : offset + 8].hex()}"
            for section, code in sections(hub_ebpf._OBJECT.read_bytes(), EXECUTABLE)
            for offset in range(0, len(code), 8)
            if code[offset] & 0x07 in memory_classes
            and code[offset] & width_mask != double_word
            and code[offset + 1] & 0x0F == frame_pointer
        ]
        assert narrow == []


#: ELF's SHF_EXECINSTR.
EXECUTABLE = 4


def sections(elf: bytes, flag: int) -> Iterator[tuple[int, bytes]]:
    """The sections of a little-endian ELF file of 64 bits that have a flag: number, contents."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    for number in range(count):
        flags, _, offset, length = struct.unpack_from("<4Q", elf, table + number * size + 8)
        if flags & flag:
            yield number, elf[offset : offset + length]


class TestMembers:
    """The chain of members in the kernel, and how it is found again."""

    def test_constants_are_those_of_the_program(self, world: KernelWorld) -> None:
        """The bounds that the documentation names are the ones in force."""
        shapes = {name: table.shape for name, table in world.dataplane._maps.items()}
        hash_type, no_preallocation = 1, 1
        for name, key, value, bound in (
            ("senders", layout.VTEP_KEY, layout.SENDER, layout.MAX_MEMBERS),
            ("members", NUMBER, layout.MEMBER, layout.MAX_MEMBERS),
            ("states", NUMBER, layout.STATE, layout.MAX_MEMBERS),
            ("vpns", NUMBER, layout.VPN, layout.MAX_VPNS),
            ("usage", NUMBER, layout.USAGE, layout.MAX_VPNS),
            ("macs", layout.MAC_KEY, layout.MAC_ENTRY, layout.MAX_MACS),
            ("hubs", layout.HUB_KEY, layout.HUB, layout.MAX_HUBS),
            ("held", layout.MAC_KEY, layout.HELD, layout.MAX_HELD),
        ):
            assert shapes[name] == MapShape(
                hash_type, key.size, value.size, bound, no_preallocation
            )
        assert shapes["counters"].max_entries == len(layout.COUNTERS)
        assert shapes["keepsakes"].value_size == layout.KEEPSAKE.size

    def test_more_hubs_than_there_are_bits(self, world: KernelWorld) -> None:
        """Hubs that nobody names any more make room; while all are named, one more is refused."""

        def hub(number: int) -> VTEP:
            return VTEP(bytes([10, 1, 0, number]), 1)

        world.join(1, A)
        for number in range(layout.MAX_HUBS):
            world.join_as(hub(number), hub=True)
        world.join_as(hub(100), hub=True)
        assert world.dataplane.member_counters(1, hub(100)) is None
        assert world.metrics.value("switch_full", interface=DEVICE) == 1
        world.join_as(A, apart=frozenset([hub(5).nbma]))
        for number in (4, 5):
            world.dataplane.remove_member(1, hub(number))
        world.join_as(hub(100), hub=True)
        assert world.dataplane.member_counters(1, hub(100)) is not None
        world.kill()
        world.restart()
        found = {vtep: each.apart for _, vtep, _, each in world.adopted()}
        assert found[A] == frozenset([hub(5).nbma])
        assert len(found) == layout.MAX_HUBS

    def test_a_switch_that_is_full(self, world: KernelWorld) -> None:
        """A member too many is refused without harm, and admitted when it asks again later."""

        class Full(libbpf.Map):
            def update(self, key: bytes, value: bytes, flags: int = libbpf.ANY) -> None:
                raise DataplaneError(7, "map senders: update")

        world.join(1, A, B)
        senders = world.dataplane._members._senders
        world.dataplane._members._senders = Full("full", os.dup(senders.fd), senders.shape)
        world.join(1, C)
        world.dataplane._members._senders.close()
        world.dataplane._members._senders = senders
        assert world.metrics.value("switch_full", interface=DEVICE) == 1
        assert world.dataplane.member_counters(1, C) is None
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]
        world.join(1, C)
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B, C]

    def test_copies_of_a_site(self, world: KernelWorld) -> None:
        """What a site's floods cost counts by their copies, and for all that it has registered."""
        world.rules = VPNRules(mac_limit=64, flood_rate=1, flood_burst=1000)
        members = [VTEP(ipv4(number), 1000 + number) for number in range(5, 16)]
        beside = VTEP(A.nbma, 300)
        world.join(1, A, beside, *members)
        world.join(2, VTEP(A.nbma, 301), VTEP(ipv4(6), 302))
        for _ in range(400):
            world.send(A, frame(BROADCAST, mac(1)))
        others = len(members) + 1
        passed = len(world.deliveries()) // others
        assert abs(passed - 250 * layout.COPIES_PER_FRAME / others) < 3
        assert world.dataplane.member_counters(1, A).limited == 400 - passed
        assert world.sent(beside, frame(BROADCAST, mac(2))) == []
        assert world.sent(VTEP(A.nbma, 301), frame(BROADCAST, mac(1))) == []
        assert len(world.sent(members[0], frame(BROADCAST, mac(3)))) == 12
        assert world.sent(A, frame(mac(3), mac(1))) == [members[0]]
        assert world.dataplane._maps["flooders"].shape.max_entries == layout.MAX_FLOODERS

    def test_those_who_left_are_deleted(self, world: KernelWorld) -> None:
        """The kernel's memory is given back a moment after members leave."""
        world.join(1, A, B, C)
        members = world.dataplane._maps["members"]
        count = sum(n for n, _, _ in members.batches())
        world.dataplane.remove_member(1, A)
        world.dataplane.remove_member(1, C)
        assert sum(n for n, _, _ in members.batches()) == count
        world.reactor.advance(2.1)
        assert sum(n for n, _, _ in members.batches()) == count - 2
        assert sum(n for n, _, _ in world.dataplane._maps["states"].batches()) == count - 2

    def test_numbers_are_never_used_again(self, world: KernelWorld) -> None:
        """After a crash no new member inherits the MACs of one that left before it."""
        world.join(1, A)
        first = world.dataplane._members.find(1, A)
        world.dataplane.remove_member(1, A)
        world.kill()
        world.restart()
        world.join(1, A)
        second = world.dataplane._members.find(1, A)
        assert first is not None
        assert second is not None
        assert second.number > first.number

    @pytest.mark.parametrize("victim", [A, B, C])
    def test_death_while_a_member_leaves(self, world: KernelWorld, victim: VTEP) -> None:
        """A chain that ends too early is made whole by the next daemon."""
        world.join(1, A, B, C, D)
        member = world.dataplane._members.find(1, victim)
        assert member is not None
        world.kill()
        world.dataplane._maps = {}
        path = world.dataplane._pins.at
        fd = libbpf.open_pinned(path("members"))
        table = libbpf.Map("members", fd, libbpf.pinned_map_shape(path("members")))
        table.delete(NUMBER.pack(member.number))
        table.close()
        world.restart()
        rest = sorted({A, B, C, D} - {victim})
        assert sorted(found[1] for found in world.adopted()) == rest
        sender = rest.pop(0)
        assert world.sent(sender, frame(BROADCAST, mac(1))) == rest
        # The victim's admission went with it: it is a stranger now.
        assert world.sent(victim, frame(BROADCAST, mac(9))) == []
        world.join(1, victim)
        assert world.sent(sender, frame(BROADCAST, mac(1))) == sorted([*rest, victim])

    def test_death_while_a_member_joins(self, world: KernelWorld) -> None:
        """A member that was written but not yet linked is linked by the next daemon."""
        world.join(1, A, B)
        table = world.dataplane._members
        write_head = table._write_head
        table._write_head = lambda vpn, head: None  # type: ignore[method-assign]
        world.join(1, C)
        table._write_head = write_head  # type: ignore[method-assign]
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]
        world.kill()
        world.restart()
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B, C]

    def test_limits_of_this_run_apply_to_adopted_members(self, world: KernelWorld) -> None:
        """A changed flood rate is in force after a restart."""
        world.join(1, A, B)
        world.kill()
        world.restart()
        world.rules = VPNRules(flood_rate=1, flood_burst=0)
        world.join(1)
        world.send(A, frame(BROADCAST, mac(1)))
        assert world.sent(A, frame(BROADCAST, mac(1))) == []


class TestTraffic:
    """Bounds on what sites can make the hub do."""

    def test_strangers_are_reported_at_a_bounded_rate(self, world: KernelWorld) -> None:
        """A scan of VNIs cannot fill the log."""
        world.join(1, A)
        for vni in range(1000, 1200):
            world.send(VTEP(A.nbma, vni), frame(BROADCAST, mac(1)))
        world.deliveries()
        refused = [event for event in world.listener.take() if event[0] == "refused"]
        assert 10 <= len(refused) <= 20
        assert world.dataplane.counters()["unregistered"] == 200

    def test_runts(self, world: KernelWorld) -> None:
        """Frames cut short in the tunnel harm nothing."""
        world.join(1, A, B)
        for size in range(0, 20):
            world.lab.send(A, frame(BROADCAST, mac(1))[:size])
        world.deliveries()
        assert world.sent(A, frame(BROADCAST, mac(1))) == [B]

    def test_large_frames(self, world: KernelWorld) -> None:
        """Frames as large as the underlay carries pass unchanged."""
        world.join(1, A, D)
        large = frame(BROADCAST, mac(1)).ljust(1514, b"x")
        assert world.sent(A, large) == [D]
        assert world.sent(D, large) == [A]


class TestMACs:
    """Reading and tending of the table."""

    def test_more_held_macs_than_are_listed(self, world: KernelWorld) -> None:
        """A MAC is held though the list of held ones is full, and there is room again when holds
        are over."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        world.pass_time(2)
        held = world.dataplane._maps["held"]
        for number in range(layout.MAX_HELD):
            held.update(layout.MAC_KEY.pack(9, mac(number)), layout.HELD.pack(1, 0, 0))
        for place in [B, A] * 4:
            world.send(place, frame(BROADCAST, mac(1)))
        world.deliveries()
        assert ("held", 1, mac(1), A, B, 10.0) in world.listener.take()
        assert world.count("macs_held_unlisted") == 1
        assert world.sent(B, frame(BROADCAST, mac(1))) == []
        assert list(world.dataplane.held()) == []
        world.dataplane.age(300, {})
        world.settle()
        assert sum(count for count, _, _ in held.batches()) == 0

    def test_edits_compare(self, world: KernelWorld) -> None:
        """A MAC that moved or spoke since it was read is left alone."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        member = world.dataplane._members.find(1, A)
        assert member is not None
        edit: Callable[..., list[bool]] = world.dataplane._macs._edit
        remove, refresh = layout.Edit.REMOVE, layout.Edit.REFRESH
        assert edit([(1, mac(1), member.number + 1, 0, remove)]) == [False]
        assert edit([(1, mac(1), member.number, 1, remove)]) == [False]
        assert edit([(1, mac(9), 0, 0, remove), (2, mac(1), 0, 0, refresh)]) == [False, False]
        assert edit([(1, mac(1), 0, 0, refresh)]) == [True]
        assert edit([(1, mac(1), member.number, 2**63 - 1, remove)]) == [True]
        assert world.dataplane.mac_count(1) == 0

    def test_refresh_does_not_resurrect(self, world: KernelWorld) -> None:
        """A MAC of a member that has left is not kept by having been answered for."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        world.dataplane.remove_member(1, A)
        edit = world.dataplane._macs._edit
        assert edit([(1, mac(1), 0, 0, layout.Edit.REFRESH)]) == [False]

    def test_many_macs(self, lab: HubLab) -> None:
        """Tables of tens of thousands are swept in turns, each MAC reported once."""
        world = KernelWorld(lab)
        try:
            world.join(1, A, B)
            table = world.dataplane._maps["macs"]
            usage = world.dataplane._maps["usage"]
            number = world.dataplane._members.find(1, A).number  # type: ignore[union-attr]
            for index in range(10_000):
                entry = layout.MAC_ENTRY.pack(-(10**12), number, number, 0, 0, 0, 0)
                table.update(layout.MAC_KEY.pack(1, mac(index)), entry)
            usage.update(NUMBER.pack(1), layout.USAGE.pack(10_000))
            keep = [mac(index) for index in range(0, 10_000, 10)]
            world.dataplane.age(300, {1: keep})
            world.dataplane.age(300, {1: keep})
            world.settle()
            aged = [event[2] for event in world.listener.take() if event[0] == "aged"]
            assert sorted(aged) == [mac(index) for index in range(10_000) if index % 10]
            assert sorted(entry.mac for entry in world.dataplane.entries(1)) == keep
            assert world.dataplane.mac_count(1) == 1000
        finally:
            world.dataplane.stop()

    def test_a_sweep_yields(self, world: KernelWorld) -> None:
        """No turn of the reactor deals with the whole table."""
        world.join(1, A)
        world.dataplane.age(300, {1: [mac(index) for index in range(5000)]})
        turns = 0
        while world.dataplane._macs.busy:
            due = [call for call in world.reactor.getDelayedCalls() if call.getTime() <= 0]
            assert len(due) == 1
            due[0].cancel()
            world.dataplane._macs._call = None
            world.dataplane._macs._step()
            turns += 1
            assert turns < 100
        assert turns >= 5000 // 2048

    def test_sites_that_come_and_go(self, world: KernelWorld) -> None:
        """Many departures cost one sweep, and sweeping takes a small share of the time."""
        world.join(1, A, B, C)
        world.learn(A, mac(1))
        table = world.dataplane._macs
        for vtep in (A, B, C):
            world.dataplane.remove_member(1, vtep)
        assert not table.busy
        assert len([c for c in world.reactor.getDelayedCalls() if c.func == table._sweep_now]) == 1
        world.reactor.advance(1)
        assert world.dataplane.mac_count(1) == 0
        table._spent_ns = 10**9
        world.join(1, A)
        world.learn(A, mac(1))
        world.dataplane.remove_member(1, A)
        world.reactor.advance(19)
        assert world.dataplane.mac_count(1) == 1
        world.reactor.advance(1)
        assert world.dataplane.mac_count(1) == 0

    def test_macs_of_sites_that_leave_together(
        self, world: KernelWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who asks for the MACs of each before it goes has the table read for all of them."""
        members = [VTEP(ipv4(2), number) for number in range(1, 21)]
        for count, vtep in enumerate(members, start=1):
            world.join(1, vtep)
            world.learn(vtep, mac(count))
        table = world.dataplane._maps["macs"]
        readings: list[int] = []
        batches = table.batches

        def counted(size: int) -> Iterator[tuple[int, bytes, bytes]]:
            readings.append(size)
            return batches(size)

        monkeypatch.setattr(table, "batches", counted)
        for count, vtep in enumerate(members, start=1):
            at = {entry.mac: entry.vtep for entry in world.dataplane.entries(1)}
            assert at == {mac(n): members[n - 1] for n in range(count, 21)}
            world.dataplane.remove_member(1, vtep)
        # One, and some more on a machine that is slow at the moment.
        assert len(readings) < 10

    def test_a_number_that_looks_like_a_protocol(self, world: KernelWorld) -> None:
        """MACs of a member whose number is an EtherType in the editor's input are removed, too."""
        members = [VTEP(ipv4(2), number) for number in range(1, 10)]
        for count, vtep in enumerate(members, start=1):
            world.join(1, vtep)
            world.learn(vtep, mac(count))
        for left, vtep in enumerate(members, start=1):
            world.dataplane.remove_member(1, vtep)
            world.settle()
            assert world.dataplane.mac_count(1) == len(members) - left

    def test_a_sweep_that_fails(self, world: KernelWorld) -> None:
        """A refusal of the kernel ends one sweep, not all of them."""
        world.join(1, A, B)
        world.learn(A, mac(1))
        world.dataplane.remove_member(1, A)
        table = world.dataplane._macs
        right = table._macs
        table._macs = libbpf.Map("macs", os.open("/dev/null", os.O_RDONLY), right.shape)
        world.settle()
        assert not table.busy
        table._macs.close()
        table._macs = right
        world.dataplane.age(300, {})
        world.settle()
        assert world.dataplane.mac_count(1) == 0

    def test_stop_in_the_middle_of_a_sweep(self, world: KernelWorld) -> None:
        """Stopping does not wait for housekeeping."""
        world.join(1, A, B)
        world.dataplane.remove_member(1, B)
        world.dataplane.age(300, {})
        world.dataplane.stop()
        assert world.reactor.getDelayedCalls() == []

    def test_counts_of_removed_vpns_go(self, world: KernelWorld) -> None:
        """VPNs that come and go leave nothing in the kernel."""
        for vpn in range(10, 30):
            world.join(vpn, VTEP(ipv4(2), vpn))
            world.send(VTEP(ipv4(2), vpn), frame(BROADCAST, mac(1)))
        world.deliveries()
        for vpn in range(10, 30):
            world.dataplane.remove_vpn(vpn)
        world.settle()
        usage = {
            vpn
            for _, keys, _ in world.dataplane._maps["usage"].batches()
            for (vpn,) in NUMBER.iter_unpack(keys)
        }
        assert usage.isdisjoint(range(10, 30))

    def test_expiry_beyond_the_clock(self, world: KernelWorld) -> None:
        """Registrations that run out long ago or never are kept as such."""
        world.join(1, A)
        for expires in (-1e12, 0.0, 1e300):
            registration = Registration(mac(1), True, expires)
            world.dataplane.add_member(1, A, HUB_IPV4, registration)
            member = world.dataplane._members.find(1, A)
            assert member is not None
            kept = world.dataplane._members.registration(member)
            assert kept.expires == float("inf") or kept.expires <= 5

    def test_an_edit_fits_a_frame(self) -> None:
        """The largest batch of edits is one that every kernel takes: a page less its overhead."""
        assert EDITS_PER_RUN * layout.EDIT.size <= 4096 - 256 - 320 - struct.calcsize("4Q")
