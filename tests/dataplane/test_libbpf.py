"""libbpf by ctypes: maps, pins, objects, and its ways to fail."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmevpn.addresses import VTEP
from dmevpn.dataplane import hub_ebpf
from dmevpn.dataplane.ebpf import layout, libbpf
from dmevpn.dataplane.ebpf.libbpf import NO_EXIST, Map, Object, Program
from dmevpn.dataplane.ebpf.pins import PinDirectory
from dmevpn.errors import DataplaneError, StartError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="eBPF needs root")

PINS = f"/sys/fs/bpf/dmf-libbpf-{os.getpid()}"
OBJECT = str(hub_ebpf._OBJECT)


class TestLibrary:
    """Finding the library."""

    def test_missing(self) -> None:
        """A machine without it is told which package to install."""
        with pytest.raises(StartError, match="install libbpf1"):
            libbpf.shared_library("libbpf.so.nonexistent")

    def test_another_library(self) -> None:
        """A library that is no libbpf 1 is named."""
        with pytest.raises(StartError, match=r"not libbpf 1\.0 or newer"):
            libbpf.shared_library("libc.so.6")


class TestLoadFailure:
    """What the kernel's refusals are turned into."""

    def test_permission(self) -> None:
        """The capabilities are named."""
        text = libbpf._load_failure(errno.EPERM, b"", "6.12.0")
        assert "CAP_BPF and CAP_NET_ADMIN" in text

    @pytest.mark.parametrize("release", ["5.15.0-91-generic", "6.0.19", "4.19"])
    def test_old_kernel(self, release: str) -> None:
        """A kernel that lacks what the switch needs is named."""
        text = libbpf._load_failure(errno.EINVAL, b"unknown func bpf_loop#181\n", release)
        assert text == f"the hub's switch needs Linux 6.1 or newer (bpf_loop): this is {release}"

    def test_verifier(self) -> None:
        """The verifier's verdict ends the line, not its statistics."""
        log = b"0: (b7) r0 = 0\nR1 invalid mem access 'scalar'\nprocessed 7 insns (limit 1000000)\n"
        text = libbpf._load_failure(errno.EACCES, log, "6.12.9-arch1")
        assert text == (
            "the kernel (6.12.9-arch1) refuses the switch: R1 invalid mem access 'scalar'"
        )

    def test_silence(self) -> None:
        """Without a verdict the error number speaks."""
        text = libbpf._load_failure(errno.ENOMEM, b"", "weird")
        assert text == "the hub's switch needs Linux 6.1 or newer (bpf_loop): this is weird"
        text = libbpf._load_failure(errno.ENOMEM, b"\n", "6.1.0")
        assert text.endswith("Cannot allocate memory")


class TestObjectFile:
    """Opening object files."""

    def test_missing(self) -> None:
        """A broken installation is named by its file."""
        with pytest.raises(StartError, match=r"/nonexistent\.o: No such file"):
            Object("/nonexistent.o", PINS)

    def test_no_object(self, tmp_path: Path) -> None:
        """So is a file of another kind."""
        path = tmp_path / "hub_switch.bpf.o"
        path.write_bytes(b"no ELF file")
        with pytest.raises(StartError, match=r"hub_switch\.bpf\.o: "):
            Object(str(path), PINS)


@pytest.fixture(scope="module", autouse=True)
def _bpffs() -> None:
    # The product's own way mounts one where there is none.
    pins = PinDirectory(f"{PINS}-mount", "lo")
    pins.open()
    pins.remove()


@pytest.fixture
def loaded() -> Iterator[tuple[dict[str, Map], dict[str, Program]]]:
    """The switch's maps and programs, attached nowhere."""
    os.makedirs(PINS)
    maps: dict[str, Map] = {}
    programs: dict[str, Program] = {}
    try:
        maps, programs = Object(OBJECT, PINS).load()
        yield maps, programs
    finally:
        for handle in [*maps.values(), *programs.values()]:
            handle.close()
        shutil.rmtree(PINS)


Loaded = tuple[dict[str, Map], dict[str, Program]]


def number(value: int) -> bytes:
    return layout.NUMBER.pack(value)


class TestMap:
    """One map."""

    def test_read_and_write(self, loaded: Loaded) -> None:
        """What is written is read back, and deleted once."""
        usage = loaded[0]["usage"]
        assert usage.lookup(number(1)) is None
        usage.update(number(1), number(7))
        assert usage.lookup(number(1)) == number(7)
        assert usage.delete(number(1))
        assert not usage.delete(number(1))

    def test_no_exist(self, loaded: Loaded) -> None:
        """A value that must not be overwritten is not."""
        usage = loaded[0]["usage"]
        usage.update(number(1), number(7), NO_EXIST)
        with pytest.raises(DataplaneError, match="map usage: update: File exists") as caught:
            usage.update(number(1), number(8), NO_EXIST)
        assert caught.value.errno == errno.EEXIST
        assert usage.lookup(number(1)) == number(7)

    def test_full(self, loaded: Loaded) -> None:
        """A map takes as many entries as it says, and then refuses."""
        usage = loaded[0]["usage"]
        for index in range(layout.MAX_VPNS):
            usage.update(number(index), number(1))
        with pytest.raises(DataplaneError) as caught:
            usage.update(number(layout.MAX_VPNS), number(1))
        assert caught.value.errno == errno.E2BIG

    @pytest.mark.parametrize("size", [1, 7, 4096])
    def test_batches(self, loaded: Loaded, size: int) -> None:
        """A map is read whole, whatever the size of the pieces."""
        usage = loaded[0]["usage"]
        assert list(usage.batches(size)) == []
        expected = {index: index * 3 for index in range(1000)}
        for index, value in expected.items():
            usage.update(number(index), number(value))
        found: dict[int, int] = {}
        for count, keys, values in usage.batches(size):
            assert len(keys) == len(values) == 4 * count
            piece = zip(
                layout.NUMBER.iter_unpack(keys), layout.NUMBER.iter_unpack(values), strict=True
            )
            found.update({key: value for (key,), (value,) in piece})
        assert found == expected

    def test_errors_of_a_closed_map(self, loaded: Loaded) -> None:
        """A handle that was given back says so, and is given back only once."""
        usage = loaded[0]["usage"]
        usage.close()
        usage.close()
        for call in (
            lambda: usage.lookup(number(1)),
            lambda: usage.update(number(1), number(1)),
            lambda: usage.delete(number(1)),
            lambda: list(usage.batches()),
        ):
            with pytest.raises(DataplaneError, match=r"map usage: .*: Bad file descriptor"):
                call()

    def test_per_cpu_values(self, loaded: Loaded) -> None:
        """Counters have one value for each CPU that there could be."""
        counters = loaded[0]["counters"]
        cpus = Path("/sys/devices/system/cpu/possible").read_text().strip()
        last = int(cpus.replace("-", ",").split(",")[-1])
        assert counters.value_size == 8 * (last + 1)
        assert counters.lookup(number(0)) == bytes(counters.value_size)


class TestPins:
    """What is pinned outlives the handles."""

    def test_maps_are_found_again(self, loaded: Loaded) -> None:
        """A second load uses the maps of the first."""
        loaded[0]["usage"].update(number(5), number(6))
        maps, programs = Object(OBJECT, PINS).load()
        assert maps["usage"].lookup(number(5)) == number(6)
        assert programs["hub_switch"].id != loaded[1]["hub_switch"].id
        for handle in [*maps.values(), *programs.values()]:
            handle.close()

    def test_shapes(self, loaded: Loaded) -> None:
        """The shape of a pinned map can be compared with what a file declares."""
        file = Object(OBJECT, PINS)
        shapes = file.shapes()
        file.close()
        file.close()
        assert set(shapes) == set(os.listdir(PINS))
        for name, shape in shapes.items():
            assert libbpf.pinned_map_shape(f"{PINS}/{name}") == shape == loaded[0][name].shape

    def test_programs(self, loaded: Loaded) -> None:
        """A program is known again by its number."""
        program = loaded[1]["hub_switch"]
        libbpf.pin(program.fd, f"{PINS}/program")
        assert libbpf.pinned_program_id(f"{PINS}/program") == program.id
        with pytest.raises(DataplaneError, match="File exists"):
            libbpf.pin(program.fd, f"{PINS}/program")
        with pytest.raises(DataplaneError, match="No such file"):
            libbpf.open_pinned(f"{PINS}/nothing")

    def test_misfit(self, loaded: Loaded) -> None:
        """A pinned map of another shape makes the load fail, in one line."""
        os.unlink(f"{PINS}/usage")
        os.rename(f"{PINS}/vpns", f"{PINS}/usage")
        with pytest.raises(StartError, match="refuses the switch"):
            Object(OBJECT, PINS).load()

    def test_no_descriptor_is_lost(self) -> None:
        """Loading and closing leaves nothing open, also when it fails."""

        def count() -> int:
            return len(os.listdir("/proc/self/fd"))

        before = count()
        os.makedirs(PINS)
        try:
            for _ in range(2):
                maps, programs = Object(OBJECT, PINS).load()
                for handle in [*maps.values(), *programs.values()]:
                    handle.close()
            os.unlink(f"{PINS}/usage")
            os.rename(f"{PINS}/vpns", f"{PINS}/usage")
            file = Object(OBJECT, PINS)
            with pytest.raises(StartError):
                file.load()
            file.close()
        finally:
            shutil.rmtree(PINS)
        assert count() == before


class TestProgram:
    """Running a program by hand."""

    def test_run(self, loaded: Loaded) -> None:
        """A frame of edits comes back with its answers."""
        edit = layout.EDIT.pack(1, bytes(6), 0, 0, layout.Edit.REMOVE, 7)
        assert loaded[1]["edit_macs"].run(edit) == edit[:-4] + number(0)

    def test_refusal(self, loaded: Loaded) -> None:
        """A frame that is too short for the kernel is an error, not a crash."""
        with pytest.raises(DataplaneError, match="running edit_macs"):
            loaded[1]["edit_macs"].run(b"short")


class TestLayout:
    """Addresses as the program has them."""

    @pytest.mark.parametrize("address", [b"", b"\x0a\x00\x00\x01", bytes(range(1, 17))])
    def test_addresses(self, address: bytes) -> None:
        """An address comes back as it was."""
        packed = layout.pack_address(address)
        assert len(packed) == 16
        assert layout.unpack_address(packed) == address

    def test_vtep(self) -> None:
        """IPv4 is mapped into IPv6, the VNI follows."""
        packed = layout.pack_vtep(VTEP(b"\x0a\x00\x00\x01", 100))
        assert packed == bytes(10) + b"\xff\xff\x0a\x00\x00\x01" + number(100)
