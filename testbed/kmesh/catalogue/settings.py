"""Who is managed and what the program is told: before a connection opens, and in the middle of it."""

from __future__ import annotations

import ipaddress

from testbed.kmesh.catalogue.case import Config, Managed
from testbed.kmesh.catalogue.stage import Stage
from testbed.lab.family import Address

_STALE = 7


def before(stage: Stage) -> None:
    """What is so when the client connects."""
    _manage(stage)
    _configure(stage)


def midway(stage: Stage) -> None:
    """What changes while the connection is open."""
    if stage.case.managed is Managed.ENROLLED:
        _enrol_both(stage)
    elif stage.case.managed is Managed.REMOVED:
        for host, address in ((stage.client, stage.client_address), (stage.server, stage.server_address)):
            stage.mesh.remove(host, stage.pair.family)
            assert stage.mesh.managed.value(address) is None
    if stage.case.config is Config.SWITCHED_OFF:
        stage.mesh.config.monitoring = False
    elif stage.case.config is Config.SWITCHED_ON:
        stage.mesh.config.monitoring = True


def _enrol_both(stage: Stage) -> None:
    for host in (stage.client, stage.server):
        stage.mesh.enrol(host, stage.pair.family)
    for address in (stage.client_address, stage.server_address):
        assert stage.mesh.managed.value(address) == 0


def _manage(stage: Stage) -> None:
    mesh, managed = stage.mesh, stage.case.managed
    if managed in {Managed.CLIENT, Managed.BOTH, Managed.REMOVED}:
        mesh.manage(stage.client)
    if managed in {Managed.SERVER, Managed.BOTH, Managed.REMOVED}:
        mesh.manage(stage.server)
    if managed is Managed.ONE_NAMESPACE:
        mesh.enrol(stage.client, stage.pair.family)
        assert set(mesh.managed) == {stage.client_address}
    if managed is Managed.STALE:
        for address in (stage.client_address, stage.server_address):
            mesh.managed.set_value(address, _STALE)
        _enrol_both(stage)


def _configure(stage: Stage) -> None:
    settings, config = stage.mesh.config, stage.case.config
    if config in {Config.UNMONITORED, Config.SWITCHED_ON}:
        settings.monitoring = False
    elif config in {Config.NODE, Config.NODE_NEAR, Config.NODE_OTHER, Config.NODE_NUMBER}:
        settings.node_ip = _exempt(stage)
    elif config is not Config.DEFAULT and config is not Config.SWITCHED_OFF:
        settings.pod_gateway = _exempt(stage)


def _exempt(stage: Stage) -> Address:
    """The client's address, or one that only looks like it."""
    address = stage.client_address
    config = stage.case.config
    if config in {Config.NODE, Config.GATEWAY}:
        return address
    if config is Config.NODE_NEAR:
        return type(address)(int(address) ^ 1)
    if config is Config.GATEWAY_NEAR:
        return type(address)(int(address) ^ 1 << (address.max_prefixlen - 1))
    if config in {Config.NODE_OTHER, Config.GATEWAY_OTHER}:
        return stage.client.address(10 - address.version)
    # an IPv4 address and the end of an IPv6 one are the same word of the program's variable
    if address.version == 4:
        return ipaddress.IPv6Address((0xFD00 << 112) + int(address))
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
