"""Loaded sets at their limits: what a worker keeps, names that clash, and a set that is closed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.bpf import libbpf
from testbed.bpf.elf.file import ObjectError
from testbed.bpf.elf.loader import LoadOptions, ObjectLoader
from testbed.bpf.elf.program_sets import load_objects
from testbed.errors import UsageError
from testbed.lab.attached import attach_objects
from testbed.lab.lab import Lab
from testbed.lab.pair import Pair
from tests.objects import TEXTS, compiled_all, nothing_left

WIDE = '__u64 shared_name; SEC("sockops") int %s(struct bpf_sock_ops *s) { shared_name++; return 1; }'
SOCKHASH = """
struct { __uint(type, BPF_MAP_TYPE_SOCKHASH); __uint(max_entries, 4);
	__type(key, __u32); __type(value, __u32); } socks SEC(".maps");
"""
MESSAGE = 'SEC("sk_msg") int %s(struct sk_msg_md *msg) { return SK_PASS; }'


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    texts = {
        **{name: TEXTS[name] for name in ("one", "maps", "vague")},
        "wide": WIDE % "count",
        "narrow": (WIDE % "count").replace("__u64", "__u32"),
        "bad": 'SEC("sockops") int count(struct bpf_sock_ops *s) { return *(int *)(long)s->args[0]; }',
        "socks": SOCKHASH + MESSAGE % "first",
        "two_msgs": SOCKHASH + MESSAGE % "first" + MESSAGE % "second",
    }
    return compiled_all(tmp_path_factory.mktemp("objects"), texts)


@pytest.fixture
def loader() -> Iterator[ObjectLoader]:
    with nothing_left(), ObjectLoader() as made:
        yield made


def test_the_worker_keeps_no_template_of_an_inner_map(loader: ObjectLoader, objects: dict[str, Path]) -> None:
    held = set()
    for _ in range(3):
        load_objects(loader, [objects["vague"]]).close()
        worker = loader.pid
        held.add(len(list(Path(f"/proc/{worker}/fd").iterdir())))
    assert len(held) == 1


def test_a_template_is_within_memory_too(objects: dict[str, Path]) -> None:
    options = LoadOptions(inner_maps={"outer": (2, 4, 1 << 20, 100)})
    with (
        ObjectLoader(memory=1 << 20) as loader,
        pytest.raises(ObjectError, match="the maps in outer would take 100 MiB each, of 1 MiB"),
    ):
        load_objects(loader, [objects["vague"]], options)


def test_programs_of_one_name_are_told_apart(loader: ObjectLoader, objects: dict[str, Path]) -> None:
    paths = [objects[name] for name in ("wide", "bad", "narrow")]
    with load_objects(loader, paths) as loaded:
        assert list(loaded.programs) == ["count", "count#3"]
        (failure,) = loaded.failures
        assert (failure.name, failure.path) == ("count#2", objects["bad"])


def test_variables_of_one_name_and_two_sizes(loader: ObjectLoader, objects: dict[str, Path]) -> None:
    """Nothing is written where not all can be."""
    with load_objects(loader, [objects["wide"], objects["narrow"]]) as loaded:
        with pytest.raises(ValueError, match="variable shared_name has 4 bytes, not 8"):
            loaded.globals["shared_name"] = 7
        assert loaded.globals["shared_name"] == 0


def test_a_closed_set_says_so(loader: ObjectLoader, objects: dict[str, Path]) -> None:
    """Its descriptors' numbers may be somebody else's by then."""
    loaded = load_objects(loader, [objects["maps"], objects["one"]])
    table, variables = loaded.maps["table"], loaded.globals
    assert variables["number"] == 1
    loaded.close()
    with pytest.raises(ValueError, match="map table: its set is closed"):
        list(table)
    with pytest.raises(ValueError, match="variable number: its set is closed"):
        variables["number"] = 2


def test_a_per_cpu_value_is_a_list_on_one_cpu_too(
    loader: ObjectLoader, objects: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = libbpf.possible_cpus()
    with load_objects(loader, [objects["maps"]]) as loaded:
        assert len(loaded.maps["each"].typed[0]) == count  # type: ignore[arg-type]
        monkeypatch.setattr(libbpf, "possible_cpus", lambda: 1)
    with load_objects(loader, [objects["maps"]]) as loaded:
        each = loaded.maps["each"]
        monkeypatch.setattr(libbpf, "map_lookup", lambda _fd, _key, size: bytes(size))
        value = each.typed[0]
        assert isinstance(value, list)
        assert len(value) == 1


def test_the_only_sk_msg_program_is_at_work_at_once(
    loader: ObjectLoader, objects: dict[str, Path], lab: Lab
) -> None:
    with (
        attach_objects(loader, [objects["socks"]], lab) as mine,
        pytest.raises(UsageError, match="something of that kind is attached there already \\(EBUSY"),
    ):
        mine.attach("first", "socks")
    with attach_objects(loader, [objects["two_msgs"]], lab) as mine:
        mine.attach("second", "socks")


def test_the_keys_of_a_sockhash_are_all_there_is(
    loader: ObjectLoader, objects: dict[str, Path], lab: Lab
) -> None:
    with attach_objects(loader, [objects["socks"]], lab) as mine, Pair(lab).connect() as connection:
        assert 7 not in mine.maps["socks"]
        mine.maps["socks"][7] = connection.client.fileno()
        assert 7 in mine.maps["socks"]
        assert list(mine.maps["socks"]) == [7]
        with pytest.raises(ValueError, match="only its keys can be read; walk it by `list`"):
            mine.maps["socks"].items()
        with pytest.raises(ValueError, match="the values of a sockhash cannot be read"):
            mine.maps["socks"].get(7)
        with pytest.raises(UsageError, match=r"find the map sock: the set has none.*\n.*maps: socks"):
            mine.maps["sock"]
        with pytest.raises(UsageError, match="read the ring socks: it is no ring buffer"):
            mine.records("socks")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": "count"}, "read only: it is a text, not a tuple of names"),
        ({"onyl": ("count",)}, "unexpected keyword argument 'onyl'"),
        ({"skip": ("cuont",)}, "choose the program cuont: no object has it"),
        ({"inner_maps": {"outre": (2, 4, 4, 1)}}, "describe the maps in outre: no object has a map"),
    ],
)
def test_options_that_are_none(
    loader: ObjectLoader, objects: dict[str, Path], lab: Lab, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        attach_objects(loader, [objects["wide"]], lab, **options)


def test_too_many_objects(loader: ObjectLoader, objects: dict[str, Path], tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.o" for number in range(201)]
    for path in paths:
        path.write_bytes(objects["wide"].read_bytes())
    with pytest.raises(UsageError, match="201 at once; a set has at most 200"):
        load_objects(loader, paths)
