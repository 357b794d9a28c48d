"""Objects as a set of programs: what is shared and what is not, what fails alone, values both ways."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from testbed.bpf.attach import attach
from testbed.bpf.elf.file import ObjectError
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.bpf.kinds import MapType, ProgramKind
from testbed.bpf.libbpf import possible_cpus
from testbed.bpf.program_set import ProgramFailure, ProgramSet
from testbed.bpf.types.layout import Value
from testbed.errors import UsageError
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from tests.objects import TEXTS, VARIABLES, compiled_all, nothing_left, variables_text

Load = Callable[..., ProgramSet]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return compiled_all(tmp_path_factory.mktemp("objects"), {**TEXTS, "variables": variables_text()})


@pytest.fixture(scope="module")
def loader() -> Iterator[ObjectLoader]:
    with ObjectLoader() as made:
        yield made


@pytest.fixture
def load(loader: ObjectLoader, objects: dict[str, Path]) -> Iterator[Load]:
    """Loads objects by name; closes them behind the test, and sees that nothing is left of them."""
    with nothing_left(), ExitStack() as stack:
        yield lambda *names, **options: stack.enter_context(
            load_objects(loader, [objects[name] for name in names], LoadOptions(**options))
        )


def run(lab: Lab, loaded: ProgramSet, *names: str) -> None:
    """Runs programs once: at a socket() in the lab."""
    with ExitStack() as stack:
        for name in names or loaded.programs:
            attach(loaded.programs[name], lab.cgroup_fd, stack)
        lab["client"].socket().close()


def counts(loaded: ProgramSet) -> list[Value]:
    return [value for _, value in loaded.maps["count"].typed.items()]


def test_maps_are_shared_and_variables_are_not(load: Load, lab: Lab) -> None:
    loaded = load("one", "two")
    assert list(loaded.programs) == ["put", "look", "put#2"]
    run(lab, loaded, "put")
    run(lab, loaded, "look", "put#2")
    assert counts(loaded) == [1, 0, 1, 0]
    assert [loaded.globals[name] for name in ("seen", "mine_one", "mine_two")] == [1, 1, 2]
    assert [loaded.globals[name] for name in ("apart", "seen_apart")] == [1, 2]
    loaded.globals["number"] = 10
    run(lab, loaded)
    assert [loaded.globals[name] for name in ("number", "mine_one", "mine_two")] == [10, 11, 12]
    assert list(load("two", "one").programs) == ["look", "put", "put#2"]


def test_a_map_of_another_size(load: Load) -> None:
    with pytest.raises(ObjectError) as raised:
        load("one", "other")
    assert raised.value.why == (
        "its map count is not that of the set so far: array with keys of 4 and values of 4 bytes,"
        " not array with keys of 4 and values of 8 bytes"
    )
    assert raised.value.what.endswith("/other.o")


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"only": ("look",)}, ["look"]),
        ({"skip": ("put",)}, ["look"]),
        ({"only": ("put",)}, ["put", "put#2"]),
        ({"only": ("put", "look"), "skip": ("put",)}, ["look"]),
    ],
)
def test_only_and_skip(load: Load, options: dict[str, Sequence[str]], names: list[str]) -> None:
    assert list(load("one", "two", **options).programs) == names


def test_a_misspelt_program_is_not_left_out_in_silence(load: Load) -> None:
    with pytest.raises(UsageError, match=r"choose the program lok: no object has it\n.*there are put"):
        load("one", skip=("lok",))


def test_a_rejected_program_leaves_the_rest(load: Load, lab: Lab, objects: dict[str, Path]) -> None:
    loaded = load("sections")
    bad, nothing = loaded.failures
    assert (bad.name, bad.section, bad.errno) == ("bad", "cgroup/sock_create", errno.EACCES)
    assert bad.reason == "EACCES (Permission denied): R0 invalid mem access 'map_value_or_null'"
    source = objects["sections"].with_suffix(".c")
    line = source.read_text(encoding="utf-8").splitlines().index("\t*value += 1;") + 1
    assert f"{source}:{line}:\n" in bad.details
    assert f"{line} | \t*value += 1;" in bad.details
    assert "R0 = map_value_or_null(" in bad.details
    assert "processed" in bad.log
    assert nothing == ProgramFailure(
        "nothing",
        nothing.path,
        "no/such",
        errno.EINVAL,
        "EINVAL (Invalid argument): libbpf knows no programs of the section 'no/such'",
        "",
        nothing.log,
    )
    assert {name: each.kind for name, each in loaded.programs.items()} == {
        "filter": None,
        "own": ProgramKind.XDP,
        "out": ProgramKind.TC_EGRESS,
        "in": ProgramKind.TC_INGRESS,
        "good": ProgramKind.SOCK_CREATE,
    }
    run(lab, loaded, "good")
    assert counts(loaded) == [1, 0, 0, 0]


def test_a_map_of_maps_that_says_what_is_in_it(
    load: Load, lab: Lab, loader: ObjectLoader, objects: dict[str, Path]
) -> None:
    (info,) = loader.open([objects["nested"]])
    assert {each.name: each.inner for each in info.maps}["outer"] == (MapType.ARRAY, 4, 8, 3, 0)
    loaded = load("nested")
    assert loaded.assumed == ()
    run(lab, loaded)
    assert loaded.maps["one"].typed[1] == 1


@pytest.mark.parametrize(
    ("inner", "fits", "assumed"),
    [({"outer": (MapType.HASH, 8, 16, 5)}, "large", ()), ({}, "small", ("outer",))],
)
def test_a_map_of_maps_that_does_not(
    load: Load, inner: dict[str, tuple[int, int, int, int]], fits: str, assumed: tuple[str, ...]
) -> None:
    loaded = load("vague", inner_maps=inner)
    assert loaded.assumed == assumed
    for name in ("small", "large"):
        fd = loaded.maps[name].fd.to_bytes(4, "little")
        if name == fits:
            loaded.maps["outer"].set(bytes(4), fd)
        else:
            with pytest.raises(OSError, match="Invalid argument"):
                loaded.maps["outer"].set(bytes(4), fd)


def test_an_inner_map_that_cannot_be(load: Load) -> None:
    with pytest.raises(ObjectError, match=r"maps in outer cannot be: array with keys of 3 .*EINVAL"):
        load("vague", inner_maps={"outer": (MapType.ARRAY, 3, 4, 1)})


def test_a_tail_call(load: Load, pair: Pair) -> None:
    for calls, expected in ((), [False, True]), ((("calls", 2, "called"),), [True, False]):
        loaded = load("calls", tail_calls=calls)
        with ExitStack() as stack:
            attach(loaded.programs["caller"], pair.lab.cgroup_fd, stack)
            pair.connect().close()
        began, *ends = (value for value in counts(loaded) if isinstance(value, int))
        assert began > 0
        assert [ends[0] == began, ends[2] == began] == expected


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (("nowhere", 2, "called"), r"the set has no program array of that name\n.*it has calls"),
        (("count", 2, "called"), "the set has no program array"),
        (("calls", 2, "nobody"), "no program nobody was loaded; there are called, caller, stranger"),
        (("calls", 4, "called"), "E2BIG"),
        (("calls", -1, "called"), "an index is a number from 0"),
        (("calls", 1 << 32, "called"), "an index is a number from 0"),
        (("calls", 2, "stranger"), "EINVAL"),
    ],
)
def test_a_tail_call_that_cannot_be(load: Load, call: tuple[str, int, str], words: str) -> None:
    with pytest.raises(
        UsageError, match=rf"fill the tail call {':'.join(map(str, call[:2]))}={call[2]}: {words}"
    ):
        load("calls", tail_calls=(call,))


def test_variables_both_ways(load: Load, lab: Lab) -> None:
    loaded = load("variables")
    values: Any = loaded.globals
    for column in (3, 4):
        if column == 4:
            for number, row in enumerate(VARIABLES):
                values[f"in{number}"] = row[column]
        run(lab, loaded)
        assert [values[f"out{number}"] for number in range(len(VARIABLES))] == [
            row[column] for row in VARIABLES
        ]
    values["in8"] = "ON"
    assert repr(values["in8"]) == "ON"


def test_a_write_leaves_its_neighbours_alone(load: Load, lab: Lab) -> None:
    loaded, times = load("variables"), 80

    def tick() -> None:
        for _ in range(times):
            lab["client"].socket().close()

    with ExitStack() as stack:
        attach(loaded.programs["copy"], lab.cgroup_fd, stack)
        thread = Thread(target=tick)
        thread.start()
        while thread.is_alive():
            loaded.globals["knob"] = 7
        thread.join()
    assert (loaded.globals["ticks"], loaded.globals["knob"]) == (times, 7)


def test_constants(load: Load, lab: Lab) -> None:
    loaded = load("one")
    assert loaded.globals["limit"] == 1
    with pytest.raises(TypeError, match="variable limit is constant: it can be set before the load only"):
        loaded.globals["limit"] = 7
    run(lab, loaded)
    assert counts(loaded)[3] == 0
    loaded = load("one", "two", constants={"limit": 7, "number": b"\3\0\0\0"})
    assert [loaded.globals[name] for name in ("limit", "number")] == [7, 3]
    run(lab, loaded)
    assert counts(loaded)[3] == 1
    assert [loaded.globals[name] for name in ("mine_one", "mine_two")] == [3, 3]
    for constants, words in (
        ({"limit": b"7"}, "it has 4 bytes, not 1"),
        ({"x": b""}, "set x: none of the"),
        ({"limit": "many"}, "set limit: "),
    ):
        with pytest.raises(UsageError, match=words):
            load("one", constants=constants)


def test_typed_maps(load: Load, lab: Lab) -> None:
    loaded = load("maps")
    table, each = loaded.maps["table"].typed, loaded.maps["each"].typed
    key: Value = {"ip": 7, "port": 80, "inbound": True}
    table[key] = {"hits": 4, "name": b"ab"}
    run(lab, loaded)
    assert table.items() == [(key, {"hits": 5, "last": -1, "name": b"ab\0\0"})]
    lists = each[1]
    assert isinstance(lists, list)
    assert len(lists) == possible_cpus() > 1
    assert sum(one["hits"] for one in lists if isinstance(one, dict) and isinstance(one["hits"], int)) == 1
    each[0] = [{"hits": number} for number in range(len(lists))]
    assert each[0] == [{"hits": number, "last": 0, "name": bytes(4)} for number in range(len(lists))]
    with pytest.raises(ValueError, match="value of map each: a list of"):
        each[0] = [{"hits": 1}]
    with pytest.raises(ValueError, match="no field prot; it has ip, port, inbound"):
        table[{"prot": 80}] = {}
    del table[key]
    assert key not in table
    with pytest.raises(KeyError):
        del table[key]


def test_maps_without_types(load: Load) -> None:
    sized = load("maps").maps["sized"].typed
    sized[b"12345678"] = b"abcdefgh"
    assert sized.items() == [(b"12345678", b"abcdefgh")]
    for key, value, words in (7, b"abcdefgh", "key of map sized"), (b"12345678", 7, "value of map sized"):
        with pytest.raises(TypeError, match=f"the {words} has no BTF: give its bytes"):
            sized[key] = value
    with pytest.raises(ValueError, match="map sized: a value has 8 bytes, not 3"):
        sized[b"12345678"] = b"abc"


def test_maps_of_sockets(load: Load, lab: Lab, pair: Pair) -> None:
    loaded = load("maps")
    sockets, storage = loaded.maps["sockets"].typed, loaded.maps["storage"].typed
    key: Value = {"ip": 1, "port": 2, "inbound": False}
    with ExitStack() as stack, pair.connect() as connection:
        sockets[key] = connection.client.fileno()
        assert list(sockets) == [key]
        assert isinstance(sockets[key], int)
        del sockets[key]
        assert len(sockets) == 0
        attach(loaded.programs["visit"], lab.cgroup_fd, stack)
        with lab["client"].socket() as sock:
            assert storage[sock.fileno()] == {"hits": 0, "last": -5, "name": bytes(4)}
            storage[sock.fileno()] = {"hits": 3}
            assert storage.get(sock.fileno()) == {"hits": 3, "last": 0, "name": bytes(4)}
        assert storage.get(connection.client.fileno()) is None


def test_nothing_is_pinned(load: Load) -> None:
    path = Path("/sys/fs/bpf/testbed_pinned")
    path.unlink(missing_ok=True)  # of a run in which this failed
    load("maps").maps["testbed_pinned"].set(bytes(4), b"mine")
    assert not path.exists()
    assert load("maps").maps["testbed_pinned"].get(bytes(4)) == bytes(4)
