"""libbpf.so.1 by ctypes: objects, maps, programs and pins. Layer: edge.

Only calls that libbpf 1.0 has and later releases keep (``LIBBPF_1.0.0`` and older in its
``libbpf.map``). Handles own their file descriptors: :meth:`close` gives them back, and an object
is closed as soon as its maps and programs have descriptors of their own.

Refusals of the kernel are :class:`~dmevpn.errors.DataplaneError` with its error number; what
keeps the daemon from starting is :class:`~dmevpn.errors.StartError` with the cure.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from dmevpn.errors import DataplaneError, StartError

__all__ = [
    "ANY",
    "LPM_TRIE",
    "NO_EXIST",
    "Map",
    "MapShape",
    "Object",
    "Program",
    "TestRunOptions",
    "open_pinned",
    "pin",
    "pinned_map_shape",
    "pinned_program_id",
    "shared_library",
]

#: Flags of :meth:`Map.update` (linux/bpf.h): make or replace; make only.
ANY, NO_EXIST = 0, 1

#: BPF_MAP_TYPE_LPM_TRIE: a lookup finds the longest prefix.
LPM_TRIE = 11

#: Kernels before this one lack ``bpf_loop`` with the clean-ups of its verifier, and the local
#: address in the tunnel key.
_OLDEST_KERNEL = (6, 1)
#: Room for the verifier's complaint about a program; only its last line is shown.
_LOG_SIZE = 1 << 20

_int, _u32, _u64 = ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64
_pointer, _string, _size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t


class _ObjectOpenOptions(ctypes.Structure):
    """``struct bpf_object_open_opts``; ``sz`` tells the library how much of it we know."""

    _fields_ = (
        ("sz", _size),
        ("object_name", _string),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", _string),
        ("removed", _u32),
        ("kconfig", _string),
        ("btf_custom_path", _string),
        ("kernel_log_buf", _pointer),
        ("kernel_log_size", _size),
        ("kernel_log_level", _u32),
    )


class TestRunOptions(ctypes.Structure):
    """``struct bpf_test_run_opts``."""

    _fields_ = (
        ("sz", _size),
        ("data_in", _pointer),
        ("data_out", _pointer),
        ("data_size_in", _u32),
        ("data_size_out", _u32),
        ("ctx_in", _pointer),
        ("ctx_out", _pointer),
        ("ctx_size_in", _u32),
        ("ctx_size_out", _u32),
        ("retval", _u32),
        ("repeat", _int),
        ("duration", _u32),
        ("flags", _u32),
        ("cpu", _u32),
        ("batch_size", _u32),
    )


class _MapInfo(ctypes.Structure):
    """The beginning of ``struct bpf_map_info``; the kernel fills as much as we have room for."""

    _fields_ = (
        ("type", _u32),
        ("id", _u32),
        ("key_size", _u32),
        ("value_size", _u32),
        ("max_entries", _u32),
        ("map_flags", _u32),
    )


class _ProgramInfo(ctypes.Structure):
    """The beginning of ``struct bpf_prog_info``."""

    _fields_ = (("type", _u32), ("id", _u32))


_PROTOTYPES: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("bpf_object__open_file", _pointer, (_string, _pointer)),
    ("bpf_object__load", _int, (_pointer,)),
    ("bpf_object__close", None, (_pointer,)),
    ("bpf_object__next_map", _pointer, (_pointer, _pointer)),
    ("bpf_object__next_program", _pointer, (_pointer, _pointer)),
    ("bpf_map__name", _string, (_pointer,)),
    ("bpf_map__fd", _int, (_pointer,)),
    ("bpf_map__type", _int, (_pointer,)),
    ("bpf_map__key_size", _u32, (_pointer,)),
    ("bpf_map__value_size", _u32, (_pointer,)),
    ("bpf_map__max_entries", _u32, (_pointer,)),
    ("bpf_map__map_flags", _u32, (_pointer,)),
    ("bpf_program__name", _string, (_pointer,)),
    ("bpf_program__fd", _int, (_pointer,)),
    ("bpf_map_update_elem", _int, (_int, _string, _string, _u64)),
    ("bpf_map_lookup_elem", _int, (_int, _string, _pointer)),
    ("bpf_map_delete_elem", _int, (_int, _string)),
    (
        "bpf_map_lookup_batch",
        _int,
        (_int, _pointer, _pointer, _pointer, _pointer, _pointer, _pointer),
    ),
    ("bpf_obj_pin", _int, (_int, _string)),
    ("bpf_obj_get", _int, (_string,)),
    ("bpf_obj_get_info_by_fd", _int, (_int, _pointer, _pointer)),
    ("bpf_prog_test_run_opts", _int, (_int, _pointer)),
    ("libbpf_num_possible_cpus", _int, ()),
    ("libbpf_set_print", _pointer, (_pointer,)),
)


@functools.cache
def shared_library(name: str = "libbpf.so.1") -> Any:
    """The library with its prototypes, silenced: its errors end in our own one-line messages.

    :raises StartError: if it is not installed, or is not libbpf 1.
    """
    try:
        # use_errno: functions that return a pointer leave their error there.
        lib = ctypes.CDLL(name, use_errno=True)
        for function, result, arguments in _PROTOTYPES:
            prototype = getattr(lib, function)
            prototype.restype, prototype.argtypes = result, arguments
    except OSError:
        raise StartError(
            f"{name} not found: install libbpf1 (Debian, Ubuntu) or libbpf (Fedora)"
        ) from None
    except AttributeError as error:
        raise StartError(f"{name} is not libbpf 1.0 or newer: {error}") from None
    lib.libbpf_set_print(None)
    return lib


def _check(result: int, operation: str) -> int:
    if result < 0:
        raise DataplaneError(-result, operation)
    return result


def _duplicate(fd: int) -> int:
    return os.dup(fd)  # close-on-exec, as every descriptor that Python makes


class MapShape(NamedTuple):
    """What must be equal for a map of one build to be used by another."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


class Map:
    """A map in the kernel. Keys and values are octets, of exactly the map's sizes."""

    def __init__(self, name: str, fd: int, shape: MapShape, *, per_cpu: bool = False) -> None:
        """Take over a descriptor.

        :param per_cpu: values are one for each possible CPU, each padded to eight octets.
        """
        lib = shared_library()
        self.name = name
        self.fd = fd
        self.shape = shape
        self.value_size = shape.value_size
        if per_cpu:
            cpus = _check(lib.libbpf_num_possible_cpus(), "counting CPUs")
            self.value_size = (shape.value_size + 7) // 8 * 8 * cpus
        self.value = ctypes.create_string_buffer(self.value_size)
        """Where the last successful :meth:`find` has put the value; saves a copy."""
        self._lookup = lib.bpf_map_lookup_elem
        self._update = lib.bpf_map_update_elem
        self._delete = lib.bpf_map_delete_elem

    def close(self) -> None:
        """Give the descriptor back; the map lives on while it is pinned or in use."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def find(self, key: bytes) -> bool:
        """Read the value of a key into :attr:`value`; whether there is one."""
        result: int = self._lookup(self.fd, key, self.value)
        if result == 0:
            return True
        if result != -errno.ENOENT:
            raise DataplaneError(-result, f"map {self.name}: lookup")
        return False

    def lookup(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        return self.value.raw if self.find(key) else None

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Write one value.

        :raises DataplaneError: E2BIG if the map is full, EEXIST with NO_EXIST.
        """
        result = self._update(self.fd, key, value, flags)
        if result:
            raise DataplaneError(-result, f"map {self.name}: update")

    def delete(self, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        result = self._delete(self.fd, key)
        if result == 0:
            return True
        if result != -errno.ENOENT:
            raise DataplaneError(-result, f"map {self.name}: delete")
        return False

    def batches(self, size: int = 4096) -> Iterator[tuple[int, bytes, bytes]]:
        """Read a hash map in pieces: how many, their keys in a row, their values in a row.

        The kernel walks whole buckets, so what changes meanwhile is seen once, or not at all.
        Between two pieces the caller may do other things, even change the map.

        :param size: entries per piece; raised by itself if one bucket holds more.
        """
        lookup_batch = shared_library().bpf_map_lookup_batch
        key_size = self.shape.key_size
        token = ctypes.create_string_buffer(max(key_size, 4))
        count = _u32()
        started = done = False
        while not done:
            keys = ctypes.create_string_buffer(key_size * size)
            values = ctypes.create_string_buffer(self.value_size * size)
            count.value = size
            result = lookup_batch(
                self.fd,
                token if started else None,
                token,
                keys,
                values,
                ctypes.byref(count),
                None,
            )
            if result == -errno.ENOSPC:
                size *= 2
                continue
            done = result == -errno.ENOENT
            if not done:
                _check(result, f"map {self.name}: batch lookup")
            started = True
            if count.value:
                yield (
                    count.value,
                    keys.raw[: count.value * key_size],
                    values.raw[: count.value * self.value_size],
                )


class Program:
    """A program in the kernel."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd
        self.id = _program_id(fd)

    def close(self) -> None:
        """Give the descriptor back; the program lives on where it is attached or pinned."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def run(self, frame: bytes) -> bytes:
        """Run it once over a frame in the kernel; the frame as the program has left it."""
        output = ctypes.create_string_buffer(len(frame))
        options = TestRunOptions(
            sz=ctypes.sizeof(TestRunOptions),
            data_in=ctypes.cast(ctypes.c_char_p(frame), _pointer),
            data_size_in=len(frame),
            data_out=ctypes.addressof(output),
            data_size_out=len(frame),
            repeat=1,
        )
        result = shared_library().bpf_prog_test_run_opts(self.fd, ctypes.byref(options))
        _check(result, f"running {self.name}")
        return output.raw


class Object:
    """A compiled object file: first opened, then loaded with its maps pinned or adopted."""

    def __init__(self, path: str, pin_directory: str) -> None:
        """Open the file.

        :param pin_directory: where maps are pinned by name, or taken from.
        :raises StartError: if it is missing or no eBPF object.
        """
        self._library = shared_library()
        self._log = ctypes.create_string_buffer(_LOG_SIZE)
        options = _ObjectOpenOptions(
            sz=ctypes.sizeof(_ObjectOpenOptions),
            pin_root_path=pin_directory.encode(),
            kernel_log_buf=ctypes.addressof(self._log),
            kernel_log_size=_LOG_SIZE,
        )
        ctypes.set_errno(0)
        self._object = self._library.bpf_object__open_file(path.encode(), ctypes.byref(options))
        if not self._object:
            raise StartError(f"{path}: {os.strerror(ctypes.get_errno() or errno.EINVAL)}")

    def shapes(self) -> dict[str, MapShape]:
        """Every map that the file declares."""
        lib = self._library
        return {
            lib.bpf_map__name(item).decode(): MapShape(
                lib.bpf_map__type(item),
                lib.bpf_map__key_size(item),
                lib.bpf_map__value_size(item),
                lib.bpf_map__max_entries(item),
                lib.bpf_map__map_flags(item),
            )
            for item in self._items(lib.bpf_object__next_map)
        }

    def load(self) -> tuple[dict[str, Map], dict[str, Program]]:
        """Make or adopt the maps, load the programs, close the file.

        :raises StartError: without the privilege, on an old kernel, or if the kernel refuses.
        """
        lib = self._library
        result = lib.bpf_object__load(self._object)
        if result < 0:
            raise StartError(_load_failure(-result, self._log.value, os.uname().release))
        shapes = self.shapes()
        maps: dict[str, Map] = {}
        programs: dict[str, Program] = {}
        for item in self._items(lib.bpf_object__next_map):
            name = lib.bpf_map__name(item).decode()
            maps[name] = Map(
                name,
                _duplicate(lib.bpf_map__fd(item)),
                shapes[name],
                per_cpu=shapes[name].type in _PER_CPU_TYPES,
            )
        for item in self._items(lib.bpf_object__next_program):
            name = lib.bpf_program__name(item).decode()
            programs[name] = Program(name, _duplicate(lib.bpf_program__fd(item)))
        self.close()
        return maps, programs

    def close(self) -> None:
        """Free what the library holds; loaded maps and programs stay."""
        if self._object:
            self._library.bpf_object__close(self._object)
            self._object = None

    def _items(self, following: Any) -> Iterator[Any]:
        item = following(self._object, None)
        while item:
            yield item
            item = following(self._object, item)


_PER_CPU_TYPES = (5, 6)  # BPF_MAP_TYPE_PERCPU_HASH, _ARRAY


def _load_failure(error: int, log: bytes, release: str) -> str:
    if error == errno.EPERM:
        return (
            "loading the switch is not permitted: run as root, "
            "or with the capabilities CAP_BPF and CAP_NET_ADMIN"
        )
    if _version(release) < _OLDEST_KERNEL:
        return f"the hub's switch needs Linux 6.1 or newer (bpf_loop): this is {release}"
    lines = [line for line in log.decode("ascii", "replace").splitlines() if line.strip()]
    # The verifier ends with statistics; its verdict stands before them.
    verdict = [line for line in lines if not line.startswith(("processed ", "verification time"))]
    reason = verdict[-1].strip() if verdict else os.strerror(error)
    return f"the kernel ({release}) refuses the switch: {reason}"


def _version(release: str) -> tuple[int, ...]:
    numbers = release.replace("-", ".").split(".")[:2]
    return tuple(int(number) if number.isdigit() else 0 for number in numbers)


# --- pins -----------------------------------------------------------------------------------


def pin(fd: int, path: str) -> None:
    """Keep a map or program alive under a name on a bpffs.

    :raises DataplaneError: EEXIST if the name is taken.
    """
    _check(shared_library().bpf_obj_pin(fd, path.encode()), f"pinning {path}")


def open_pinned(path: str) -> int:
    """A descriptor of what is pinned at a path; the caller closes it."""
    return _check(shared_library().bpf_obj_get(path.encode()), f"opening {path}")


def pinned_map_shape(path: str) -> MapShape:
    """The shape of the map that is pinned at a path."""
    fd = open_pinned(path)
    try:
        info = _info(fd, _MapInfo())
    finally:
        os.close(fd)
    return MapShape(info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)


def pinned_value(path: str, key: bytes) -> bytes | None:
    """What the map that is pinned at a path has for a key; None if it has nothing.

    :raises DataplaneError: if there is no such map.
    """
    table = Map(os.path.basename(path), open_pinned(path), pinned_map_shape(path))
    try:
        return table.lookup(key)
    finally:
        table.close()


def pinned_program_id(path: str) -> int:
    """The kernel's number of the program that is pinned at a path."""
    fd = open_pinned(path)
    try:
        return _program_id(fd)
    finally:
        os.close(fd)


def _program_id(fd: int) -> int:
    number: int = _info(fd, _ProgramInfo()).id
    return number


def _info(fd: int, info: Any) -> Any:
    length = _u32(ctypes.sizeof(info))
    result = shared_library().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(length))
    _check(result, "reading what is pinned")
    return info
