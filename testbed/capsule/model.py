"""What a capsule is made of, as plain values: whoever has seen a test fail hands them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from testbed.observe.events import Story
from testbed.runs.model import RunInfo


@dataclass(frozen=True)
class Scenario:
    """Which test it was. ``nodeid`` is pytest's: of a shipped scenario from the folder of these on.

    ``params`` are those of its parameters that have a text, by name. ``seed`` is that of Hypothesis or of
    `testbed explore`, where there is one. ``test_sha256`` is that of the file of a test that is not
    shipped, filled in when the capsule is made. ``left_out`` says what the capsule should have and has not.
    """

    nodeid: str
    shipped: bool = True
    title: str = ""
    family: str = ""
    params: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    abi: str = ""
    tail_calls: tuple[str, ...] = ()
    inner_maps: tuple[str, ...] = ()
    test_sha256: str = ""
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """Where it ran. ``config`` is the file that the configuration is from, or ``unknown``."""

    release: str
    machine: str
    config: str


@dataclass(frozen=True)
class Material:
    """What is known of a test that has just failed.

    ``objects`` are people's own, by file name and content; without any the sources in ``bpf/`` go along.
    ``maps`` are what the maps held, as `dump_maps` tells it. ``kernel_log`` are the lines since the test
    began, None where they cannot be read. ``test_text`` is the file of a test that is not shipped, and
    ``abi_text`` that of an ABI profile which is a file.
    """

    story: Story
    scenario: Scenario
    info: RunInfo
    packets: bytes | None = None
    objects: tuple[tuple[str, bytes], ...] = ()
    maps: Mapping[str, object] = field(default_factory=dict)
    kernel_log: tuple[str, ...] | None = None
    test_text: str = ""
    abi_text: str = ""
