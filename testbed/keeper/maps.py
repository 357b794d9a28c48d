"""The maps of the sets in a lab: which there are, and what is in one, as Python values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, get_args

from testbed.bpf.kinds import MapType, map_type_name
from testbed.bpf.maps import Map
from testbed.bpf.types.layout import Type
from testbed.errors import UsageError, command, errno_name
from testbed.keeper.answers import kernel_id
from testbed.keeper.kept import Kept, Placed
from testbed.keeper.words import unknown
from testbed.kernel.sockdiag import TcpSocket, TcpState
from testbed.kmesh.abi import Direction
from testbed.kmesh.profile import Role
from testbed.kmesh.records import decode_address_key, decode_tuple
from testbed.lab.family import endpoint
from testbed.lab.host import Host

_MOST = 10_000  # entries: what a keeper can tell without keeping others waiting
_ROLES: tuple[Role, ...] = get_args(Role)
_NO_KEYS = {MapType.RINGBUF, MapType.PERF_EVENT_ARRAY, MapType.QUEUE, MapType.STACK, MapType.BLOOM_FILTER}
_ALL_KEYS = {MapType.ARRAY, MapType.PERCPU_ARRAY}

About = dict[str, Any]


def all_maps(kept: Kept) -> list[About]:
    """One entry a map: name, role, type, sizes in bytes, entries (a number, ``N+``, or None)."""
    return [_about(kept, placed, each) for placed, each in _each(kept)]


def one_map(kept: Kept, name: str) -> list[About]:
    """What is in a map, by its name or role: ``items``, each a key and its value. One a set that has it."""
    found = [
        (placed, each) for placed, each in _each(kept) if name in {each.name, role_of(placed, each.name)}
    ]
    if not found:
        names = {each.name for _, each in _each(kept)}
        roles = {role_of(placed, each.name) for placed, each in _each(kept)} - {""}
        raise unknown(f"find the map {name}", "no set has it", name, sorted(names | roles), "maps and roles")
    return [{**_about(kept, placed, each), **_content(kept, placed, each)} for placed, each in found]


def _each(kept: Kept) -> Iterator[tuple[Placed, Map]]:
    return ((placed, each) for placed in kept.placed for each in placed.programs.maps.values())


def role_of(placed: Placed, name: str) -> str:
    """What a map is to the contract (``managed``); empty where it is nothing to it."""
    if placed.mesh is None:
        return ""
    profile = placed.mesh.profile
    return next((role for role in _ROLES if profile.map_name(role) == name), "")


def _about(kept: Kept, placed: Placed, each: Map) -> About:
    return {
        "name": each.name,
        "role": role_of(placed, each.name) or None,
        "type": map_type_name(each.type),
        "id": kernel_id(each.fd, "map_id"),
        "key_size": each.key_size,
        "value_size": each.value_size,
        "max_entries": each.max_entries,
        "entries": _entries(kept, each),
        "where": placed.where,
    }


def _entries(kept: Kept, each: Map) -> int | str | None:
    if each.type in _NO_KEYS:
        return None
    if each.type in _ALL_KEYS:
        return each.max_entries
    if each.type == MapType.SK_STORAGE:
        return len(_storages(kept, each))
    count = sum(1 for _ in itertools.islice(each, _MOST))
    return count if count < _MOST else f"{_MOST}+"


def _storages(kept: Kept, each: Map) -> list[tuple[Host, int, bytes]]:
    """Its keys are sockets: (the host, the socket's cookie, the value)."""
    return [
        (host, cookie, value)
        for host in kept.lab.hosts.values()
        for cookie, value in host.socket_storages(each.fd).items()
    ]


def _storage_items(kept: Kept, placed: Placed, each: Map) -> list[About]:
    storages = _storages(kept, each)
    ends = {sock.cookie: sock for host in {host for host, _, _ in storages} for sock in host.tcp_sockets()}
    return [
        _item(cookie, _socket_words(host, cookie, ends.get(cookie)), _storage(placed, each, data))
        for host, cookie, data in storages
    ]


def _socket_words(host: Host, cookie: int, sock: TcpSocket | None) -> str:
    words = f"socket {cookie} of {host.name}"
    if sock is None:
        return words
    local, remote = endpoint(sock.local, sock.local_port), endpoint(sock.remote, sock.remote_port)
    return f"{words}, {local}" if sock.state is TcpState.LISTEN else f"{words}, {local} → {remote}"


def _storage(placed: Placed, each: Map, data: bytes) -> Any:
    """By the names of the contract, as far as the era has them; ``asked_for`` as ``10.77.0.2:80``."""
    if placed.mesh is None or role_of(placed, each.name) != "storage":
        return decoded(each.value_type, data)
    storage, known = placed.mesh.storage.decode(data), placed.mesh.storage.fields
    values = {name: value for name, value in vars(storage).items() if name in known}
    if storage.asked_for is not None:
        values["asked_for"] = endpoint(*storage.asked_for)
    if storage.direction in set(Direction):
        values["direction"] = Direction(storage.direction).name
    return values


def _content(kept: Kept, placed: Placed, each: Map) -> About:
    if each.type in _NO_KEYS:
        why = f"a {map_type_name(each.type)} has no entries to look at"
        raise UsageError(f"show what is in {each.name}", why, f"what comes into it: {command('watch')}")
    if each.type == MapType.SK_STORAGE:
        return {"items": _storage_items(kept, placed, each), "more": False}
    keys = list(itertools.islice(each, _MOST + 1))
    items = [
        _item(decoded(each.key_type, key), words_of_key(kept, placed, each, key), _value(each, key))
        for key in keys[:_MOST]
    ]
    return {"items": items, "more": len(keys) > _MOST}


def _item(key: object, words: str, value: object) -> About:
    """``words`` are what the key means, empty where nobody knows."""
    return {"key": key, "words": words, "value": value}


def words_of_key(kept: Kept, placed: Placed, each: Map, key: bytes) -> str:
    """What a key means to the contract: an address, a connection. Empty where it means nothing to it."""
    role, mesh = role_of(placed, each.name), placed.mesh
    if mesh is None:
        return ""
    if role == "managed":
        for host in kept.lab.hosts.values():
            if host.netns_cookie is not None and key == host.netns_cookie.to_bytes(8, "little").ljust(
                len(key), b"\0"
            ):
                return f"namespace of {host.name}"
        return str(decode_address_key(key))
    if role == "auth_results":
        return str(decode_tuple(key, mesh.profile.ports.auth))
    if role == "sockhash":
        return str(decode_tuple(key, mesh.profile.ports.sockhash))
    return ""


def _value(each: Map, key: bytes) -> Any:
    if each.keys_only:
        return "(a socket)"
    try:
        data = each.get(key)
    except OSError as error:
        return f"({errno_name(error.errno or 0)})"
    if data is None or not each.per_cpu:
        return data and decoded(each.value_type, data)
    size = len(data) // each.cpus
    used = each.value_type.size if each.value_type else size
    return [decoded(each.value_type, data[at : at + used]) for at in range(0, len(data), size)]


def decoded(kind: Type | None, data: bytes) -> Any:
    """Bytes by their type, as JSON has it."""
    return plain(kind.decode(data) if kind else data)


def plain(value: object) -> Any:
    """A value as JSON has it: bytes are in hex."""
    if isinstance(value, bytes | bytearray):
        return value.hex(" ")
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
