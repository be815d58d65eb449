"""spec.py: the OCI document, piece by piece."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulletin.cell.runtime import spec

ALL = (*spec.CAPABILITIES_PRIVILEGED_USER, "CAP_NET_ADMIN", "CAP_SYS_PTRACE")
PROCESS = spec.ProcessFacts(
    args=("/bin/sh", "-c", "true"),
    env=(("A", "1"), ("B", "x=y"), ("EMPTY", "")),
    cwd="/home/vcap",
    uid=2000,
    gid=2001,
    groups=(10, 29),
    nofile=1024,
)
FACTS = spec.ContainerFacts(
    guid="task-1",
    rootfs="/run/bulletin/cell/bundles/task-1/rootfs",
    process=PROCESS,
    capabilities=ALL,
    ids=spec.IdRange(100_000, 65_536),
    limits=spec.Limits(memory_bytes=1 << 20, pids=7, cpu_shares=512),
    cgroup="/bulletin/cell/task-1",
    seccomp=spec.Seccomp(annotations={"filter": "abc"}),
    init="/run/bulletin/cell/init",
)
PRIVILEGED = replace(FACTS, ids=None, seccomp=None, process=replace(PROCESS, privileged=True))


def namespaces(document):
    return {entry["type"] for entry in document["linux"]["namespaces"]}


def test_a_process():
    document = spec.process_document(PROCESS, ALL)
    assert document["args"] == ["/bin/sh", "-c", "true"]
    assert document["env"] == ["A=1", "B=x=y", "EMPTY="]
    assert document["cwd"] == "/home/vcap"
    assert document["user"] == {"uid": 2000, "gid": 2001, "additionalGids": [10, 29]}
    assert document["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1024}]
    assert document["noNewPrivileges"] is True
    assert document["terminal"] is False


@pytest.mark.parametrize(
    ("uid", "privileged", "ceiling", "held"),
    [
        (2000, False, spec.CAPABILITIES_DEFAULT, ()),
        (0, False, spec.CAPABILITIES_DEFAULT, spec.CAPABILITIES_DEFAULT),
        (2000, True, spec.CAPABILITIES_PRIVILEGED_USER, ()),
        (0, True, ALL, ALL),
    ],
)
def test_capabilities(uid, privileged, ceiling, held):
    sets = spec.process_document(replace(PROCESS, uid=uid, privileged=privileged), ALL)["capabilities"]
    assert set(sets["bounding"]) == set(ceiling)
    assert set(sets["permitted"]) == set(sets["effective"]) == set(held)
    assert sets["inheritable"] == sets["ambient"] == []


def test_the_ceiling_is_the_fourteen_of_the_specification():
    assert len(spec.CAPABILITIES_DEFAULT) == 14
    assert set(spec.CAPABILITIES_PRIVILEGED_USER) - set(spec.CAPABILITIES_DEFAULT) == {"CAP_SYS_ADMIN"}


@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize("uid", [0, 2000])
def test_no_capability_is_promised_that_the_cell_does_not_have(uid, privileged):
    sets = spec.process_document(replace(PROCESS, uid=uid, privileged=privileged), ("CAP_CHOWN",))["capabilities"]
    assert all(set(names) <= {"CAP_CHOWN"} for names in sets.values())


def test_the_pausing_init_holds_nothing_though_it_is_root():
    process = spec.pause_process()
    document = spec.container_document(replace(FACTS, process=process))["process"]
    assert document["user"]["uid"] == 0
    assert all(names == [] for names in document["capabilities"].values())
    assert document["args"][0] == spec.INIT_PATH


def test_the_init_comes_before_the_process_and_changes_nothing_else():
    with_init = spec.with_init(PROCESS)
    assert with_init.args == (spec.INIT_PATH, "--", *PROCESS.args)
    assert replace(with_init, args=PROCESS.args) == PROCESS


def test_an_unprivileged_container():
    document = spec.container_document(FACTS)
    linux = document["linux"]
    assert namespaces(document) == {"pid", "ipc", "uts", "mount", "cgroup", "network", "user"}
    assert linux["uidMappings"] == linux["gidMappings"] == [{"containerID": 0, "hostID": 100_000, "size": 65_536}]
    assert document["annotations"] == {"filter": "abc"}
    assert "/proc/kcore" in linux["maskedPaths"]
    assert {"/proc/sysrq-trigger", "/proc/sys"} <= set(linux["readonlyPaths"])
    assert linux["cgroupsPath"] == "/bulletin/cell/task-1"
    assert "devices" not in linux


def test_a_privileged_container():
    document = spec.container_document(PRIVILEGED)
    linux = document["linux"]
    assert namespaces(document) == {"pid", "ipc", "uts", "mount", "cgroup", "network"}
    assert "uidMappings" not in linux
    assert "annotations" not in document
    assert "seccomp" not in linux
    assert linux["maskedPaths"] == linux["readonlyPaths"] == []
    assert [device["path"] for device in linux["devices"]] == ["/dev/fuse"]
    assert document["process"]["noNewPrivileges"] is False


def test_the_seccomp_table_where_the_engine_takes_one():
    document = spec.container_document(replace(FACTS, seccomp=spec.Seccomp(table={"defaultAction": "x"})))
    assert document["linux"]["seccomp"] == {"defaultAction": "x"}
    assert "annotations" not in document


def test_a_network_namespace_may_be_given():
    document = spec.container_document(replace(FACTS, network_namespace="/proc/7/ns/net"))
    assert {"type": "network", "path": "/proc/7/ns/net"} in document["linux"]["namespaces"]


def test_mounts():
    bind = spec.Bind("/host/file", "/etc/file")
    mounts = {mount["destination"]: mount for mount in spec.container_document(replace(FACTS, binds=(bind,)))["mounts"]}
    assert set(mounts) == {
        "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", spec.INIT_PATH, "/etc/file",
    }  # fmt: skip
    assert "ro" in mounts["/sys"]["options"]
    assert "ro" in mounts[spec.INIT_PATH]["options"]
    assert "ro" in mounts["/etc/file"]["options"]
    for path in ("/proc", "/dev/shm", "/dev/mqueue", "/sys"):
        assert {"nosuid", "nodev", "noexec"} <= set(mounts[path]["options"])


def test_devices_are_denied_but_for_the_usual_ones():
    for facts, fuse in ((FACTS, False), (PRIVILEGED, True)):
        rules = spec.container_document(facts)["linux"]["resources"]["devices"]
        assert rules[0] == {"allow": False, "access": "rwm"}
        allowed = {(rule["major"], rule.get("minor")) for rule in rules[1:]}
        assert all(rule["allow"] and rule["type"] == "c" for rule in rules[1:])
        expected = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None)}
        assert allowed == (expected | {(10, 229)} if fuse else expected)


def test_limits():
    resources = spec.container_document(FACTS)["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 20, "swap": 1 << 20}
    assert resources["pids"] == {"limit": 7}
    assert resources["cpu"] == {"shares": 512}


def test_zero_limits_are_no_limits():
    resources = spec.container_document(replace(FACTS, limits=spec.Limits()))["linux"]["resources"]
    assert set(resources) == {"devices"}


def test_without_swap_accounting_memory_is_limited_alone():
    resources = spec.container_document(replace(FACTS, limits=spec.Limits(memory_bytes=5, swap=False)))
    assert resources["linux"]["resources"]["memory"] == {"limit": 5}


@pytest.mark.parametrize(
    ("weight", "shares_max", "shares"),
    [(0, 1024, 0), (1, 1024, 10), (50, 1024, 512), (99, 1024, 1013), (100, 1024, 1024), (1, 100, 2), (100, 2, 2)],
)
def test_cpu_shares(weight, shares_max, shares):
    assert spec.cpu_shares(weight, shares_max) == shares


@given(st.integers(1, 255))
def test_the_hostname_is_the_guid_cut_to_what_the_kernel_takes(length):
    guid = ("abcdefghij" * 26)[:length]
    document = spec.container_document(replace(FACTS, guid=guid))
    assert document["hostname"] == guid[:64]


def test_secrets_stay_out_of_representations():
    process = replace(PROCESS, env=(("TOKEN", "hush"),))
    assert "hush" not in repr(process)
    assert "hush" not in repr(replace(FACTS, process=process))


def test_the_document_is_json():
    assert json.loads(json.dumps(spec.container_document(FACTS)))["ociVersion"]
