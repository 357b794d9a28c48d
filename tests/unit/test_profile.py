"""ABI profiles: those that come along, and those that people write."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import UsageError
from testbed.kmesh.abi import HOST_ORDER, NETWORK_ORDER, Absent
from testbed.kmesh.profile import PROFILES, Profile, Role, builtin_profiles, load_profile

MAIN = (PROFILES / "main.yaml").read_text(encoding="utf-8")


def test_there_is_one_for_each_era_oldest_first() -> None:
    eras = [profile.era for profile in builtin_profiles()]
    assert eras == ["v0.3", "v0.4.0", "v0.4.1", "v0.5.0", "v1.0.0", "v1.1", "main"]


@pytest.mark.parametrize("profile", builtin_profiles(), ids=lambda profile: profile.era)
def test_it_says_of_each_thing_where_it_is_or_why_there_is_none(profile: Profile) -> None:
    found = profile
    roles: tuple[Role, ...] = ("observe", "storage", "log")
    for role in roles:
        assert found.map_name(role) or role in found.lacks, role
    for setting in ("node_ip", "pod_gateway", "monitoring", "log_level"):
        assert setting in found.config or setting in found.lacks, setting
    for field in ("orig_dst", "start_ns", "last_report_ns"):
        observe = found.records.observe
        assert observe is None or field in observe.fields or field in found.lacks, field


def test_ports_in_authorization_tell_main_from_v1_1() -> None:
    assert (load_profile("main").ports.auth, load_profile("v1.1").ports.auth) == (HOST_ORDER, NETWORK_ORDER)


def test_what_an_era_lacks_is_absent_with_the_reason() -> None:
    with pytest.raises(Absent, match=r"Kmesh v0\.3\.x: it handles IPv4 only"):
        load_profile("v0.3").require("ipv6")
    load_profile("main").require("ipv6")


def test_one_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = MAIN.replace("era: main", "era: mine").replace("km_manage", "my_manage")
    path.write_text(text, encoding="utf-8")
    found = load_profile(path)
    assert (found.era, found.map_name("managed")) == ("mine", "my_manage")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("era: main\n", "", "era: field required"),
        ("auth: host", "auth: middle", r"ports\.auth: input should be 'little' or 'big'"),
        ("sent_bytes: [60, 4]", "sent_bytes: [126, 4]", "field sent_bytes ends at byte 130 of 128"),
        ("ipv4: 0.0.0.2", "ipv4: here", "control.ipv4"),
        ("control:", "controls:", r"control: field required \(and 1 more\)"),
        ("  managed: {name", "  manages: {name", "maps"),
        ("era: main", "era: [", "while parsing a flow sequence"),
        ("  sockops: sockops_prog\n", "", "programs: it names no sockops program"),
        ("      state: [76, 4]\n", "", r"records\.observe\.fields: state are missing"),
        ("{type: [0, 4], tuple: [4, 36]}", "{tuple: [4, 36]}", r"auth_request\.fields: type are missing"),
        ("  storage:\n    size: 64", "  access_log:\n    size: 64", "storage"),
        ('ipv6: "::2"}', 'ipv6: "::2", enrol_port: 929000}', "less than or equal to 65535"),
        ("node_ip: node_ip", "node_ip: [0, 16]", r"config\.node_ip: it is a place in a map"),
        (MAIN, "", "Input should be a valid dictionary"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    assert old in MAIN
    path.write_text(MAIN.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        load_profile(path)
    assert "\n" not in caught.value.why


def test_neither_an_era_nor_a_file() -> None:
    with pytest.raises(UsageError, match=r"eras: v0\.3, v0\.4\.0"):
        load_profile("v9")
    with pytest.raises(UsageError, match="No such file"):
        load_profile("/nowhere/x.yaml")
