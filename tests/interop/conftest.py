"""Certificates as an operator would have made them, for boards that strangers' programs talk to."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from bulletin.trust.authority import Authority, Purpose, make_authority
from bulletin.wire.routes import Role


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, and NAME.pem and NAME.key for a board, each role, and a stranger of stranger-ca.pem.

    RSA, so that the reference's ciphers of TLS 1.2 can be used as well (board-api.md 1.1).
    """
    directory = tmp_path_factory.mktemp("certificates")
    now = dt.datetime.now(dt.UTC)

    def write(name: str, content: bytes) -> None:
        path = directory / name
        path.touch(0o600)
        path.write_bytes(content)

    def authority(name: str, file: str) -> Authority:
        made = make_authority(name, now, key_kind="rsa")
        write(file, made.cert)
        return Authority(made.cert, made.key)

    ours, strange = authority("interop", "ca.pem"), authority("stranger", "stranger-ca.pem")
    issued = {
        "board": ours.issue("board", Purpose.BOARD, now, hosts=["127.0.0.1", "localhost"], key_kind="rsa"),
        "client": ours.issue("interop-client", Purpose.PEER, now, roles=[Role.CLIENT], key_kind="rsa"),
        "cell": ours.issue("interop-cell", Purpose.PEER, now, roles=[Role.CELL], key_kind="rsa"),
        "operator": ours.issue("interop-operator", Purpose.PEER, now, roles=[Role.OPERATOR], key_kind="rsa"),
        "stranger": strange.issue("stranger", Purpose.PEER, now, roles=list(Role), key_kind="rsa"),
    }
    for name, made in issued.items():
        write(f"{name}.pem", made.cert)
        write(f"{name}.key", made.key)
    return directory
