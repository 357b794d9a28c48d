"""Makes a capsule of what is known of a failed test, and of the machine that it failed on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from testbed.acquired import acquired
from testbed.bpf.source import expand
from testbed.capsule.debug_paths import without_paths
from testbed.capsule.machine import kernel_facts, versions
from testbed.capsule.model import Material
from testbed.capsule.scrub import Scrubber, scrubber
from testbed.errors import ProgramError, file_error
from testbed.kmesh.reference import reference_sources
from testbed.runs.archive import FILE_LIMIT, limit_of, pack
from testbed.runs.codec import encoded

SUFFIX = ".capsule.zip"
_EXPANDED = re.compile(r'^#line 1 "(.+)"$', re.MULTILINE)
_LONGEST_NAME = 120


def write_capsule(folder: Path, material: Material) -> Path:
    """Writes the capsule of a failed test into ``folder``, which is made; returns its path.

    It is named after the test, and is there whole or not at all. `file_error` where it cannot be
    written.
    """
    name = re.sub(r"[^\w.+-]+", "-", _short(material)).strip("-")[:_LONGEST_NAME]
    data = pack(collect(material))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        acquired("kept folder", folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".draft-") as draft:
            acquired("file", draft.name)
            draft.write(data)
            draft.flush()
            os.fchmod(draft.fileno(), 0o644)
            return _linked(draft.name, folder, name)
    except OSError as error:
        raise file_error(f"write a capsule into {folder}", error) from error


def _linked(draft: str, folder: Path, name: str) -> Path:
    number = 1
    while True:
        path = folder / f"{name}{f'-{number}' if number > 1 else ''}{SUFFIX}"
        try:
            os.link(draft, path)
        except FileExistsError:
            number += 1
            continue
        acquired("kept file", path)
        return path


def _short(material: Material) -> str:
    path, _, rest = material.scenario.nodeid.partition("::")
    return f"{Path(path).stem.removeprefix('test_')}.{rest.removeprefix('test_')}"


def collect(material: Material) -> dict[str, bytes]:
    """The members of the capsule, with nothing of the host in them that is nobody's business.

    What is too large for a capsule is left out, and that is told in its ``scenario.json``.
    """
    clean = scrubber(keep=_hosts(material.story.topology))
    kernel, config = kernel_facts()
    members = {
        "run.json": _cleaned(clean, encoded(material.info)),
        "stories/0001.json": _cleaned(clean, encoded(replace(material.story, test=material.scenario.nodeid))),
        "topology.json": _json(clean, material.story.topology),
        "kernel.json": encoded(kernel),
        "versions.json": _json(clean, versions()),
        "maps.json": _json(clean, material.maps),
    }
    if config:
        members["kernel-config"] = clean.text(config).encode()
    if material.kernel_log is not None:
        members["dmesg.txt"] = clean.text("".join(f"{line}\n" for line in material.kernel_log)).encode()
    if material.packets is not None:
        members["packets/0001.pcapng"] = material.packets
    members |= _under_test(material)
    for name, text in (("test.py", material.test_text), ("abi.yaml", material.abi_text)):
        if text:
            members[name] = clean.text(text).encode(errors="backslashreplace")
    left_out = list(_too_large(members))
    if material.kernel_log is None:
        left_out.append("dmesg.txt: the kernel's log cannot be read")
    if not config:
        left_out.append("kernel-config: neither /proc/config.gz nor a file in /boot has it")
    scenario = replace(
        material.scenario,
        left_out=(*material.scenario.left_out, *left_out),
        test_sha256=hashlib.sha256(material.test_text.encode()).hexdigest() if material.test_text else "",
    )
    members["scenario.json"] = _cleaned(clean, encoded(scenario))
    return members


def _hosts(topology: dict[str, object]) -> set[str]:
    """Names that mean a host of the lab, even if a user of this machine is called so too."""
    hosts = topology.get("hosts")
    return {"client", "server", *(map(str, hosts) if isinstance(hosts, dict | list) else ())}


def _under_test(material: Material) -> dict[str, bytes]:
    if material.objects:
        return {f"objects/{Path(name).name}": without_paths(data) for name, data in material.objects}
    return {f"sources/{name}": data for name, data in current_sources().items()}


def current_sources() -> dict[str, bytes]:
    """The reference's sources in ``bpf/`` and the headers that they reach, by their places there."""
    reference = reference_sources()
    root = reference.sources[0].parent
    try:
        text = expand(reference.sources, reference.include)
    except ProgramError:
        text = "".join(f'#line 1 "{path}"\n' for path in root.rglob("*.[ch]"))
    paths = sorted({Path(path) for path in _EXPANDED.findall(text)})
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def _too_large(members: dict[str, bytes]) -> Iterable[str]:
    """Takes out what is too large, or has a name that no member has; tells what."""
    for name in list(members):
        limit = limit_of(name)
        if limit is None or len(members[name]) > limit:
            yield f"{name}: {len(members.pop(name)) >> 20} MiB, or a name that a capsule has no place for"
    while sum(map(len, members.values())) > FILE_LIMIT:
        largest = max(members, key=lambda name: len(members[name]))
        yield f"{largest}: {len(members.pop(largest)) >> 20} MiB"


def _cleaned(clean: Scrubber, data: bytes) -> bytes:
    return _json(clean, json.loads(data))


def _json(clean: Scrubber, value: Any) -> bytes:
    return f"{json.dumps(clean.value(json.loads(json.dumps(value, default=str))), indent=1)}\n".encode()
