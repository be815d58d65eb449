"""Sealing of definitions, byte for byte as board-api.md section 13 has it; nothing opens that was changed."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from bulletin.store.sealing import KeySealer, PlainSealer, Unsealable

KEYS = {"2025": "old passphrase", "2026": "new passphrase"}
SEALER = KeySealer(KEYS, "2026")


def seal_by_hand(content: bytes, label: str, passphrase: str, nonce: bytes) -> bytes:
    """The stored form, made of the cipher's own parts instead of the AEAD the program uses."""
    encryptor = Cipher(algorithms.AES256(hashlib.sha256(passphrase.encode()).digest()), modes.GCM(nonce)).encryptor()
    sealed = encryptor.update(b"\x02\x00" + content) + encryptor.finalize()
    parts = bytes([len(label.encode())]) + label.encode() + nonce + sealed + encryptor.tag
    return b"02" + base64.b64encode(parts)


@given(st.binary())
def test_what_is_sealed_opens(content: bytes) -> None:
    sealed = PlainSealer().seal(content)
    assert sealed == b"\x02\x00" + content
    assert PlainSealer().open(sealed) == content


@given(st.binary().filter(lambda content: content[:2] not in {b"\x02\x00", b"02"}))
def test_anything_else_is_refused_without_telling_it(content: bytes) -> None:
    for sealer in (PlainSealer(), SEALER):
        with pytest.raises(Unsealable) as raised:
            sealer.open(content)
        assert str(raised.value) == "the definition does not begin with the plaintext header 02 00"


def test_a_sealed_definition_without_a_key_says_so() -> None:
    with pytest.raises(Unsealable, match="sealed, and no key is given"):
        PlainSealer().open(SEALER.seal(b"content"))


@given(st.binary())
def test_the_sealed_form_is_the_specifications(content: bytes) -> None:
    nonce = b"0123456789ab"
    sealer = KeySealer(KEYS, "2026", make_nonce=lambda count: nonce[:count])
    assert sealer.seal(content) == seal_by_hand(content, "2026", KEYS["2026"], nonce)
    assert sealer.open(seal_by_hand(content, "2025", KEYS["2025"], b"ba9876543210")) == content


@given(st.binary())
def test_every_key_opens_and_plain_rows_do(content: bytes) -> None:
    assert SEALER.open(SEALER.seal(content)) == content
    assert SEALER.open(KeySealer(KEYS, "2025").seal(content)) == content
    assert SEALER.open(PlainSealer().seal(content)) == content


def test_no_two_sealings_are_alike_and_none_shows_the_content() -> None:
    content = b"a password in a definition"
    sealed = {SEALER.seal(content) for _ in range(100)}
    assert len(sealed) == 100
    assert not any(content in base64.b64decode(form[2:]) for form in sealed)


@given(st.binary(max_size=40), st.data())
def test_a_changed_byte_opens_nothing(content: bytes, data: st.DataObject) -> None:
    raw = bytearray(base64.b64decode(SEALER.seal(content)[2:]))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Unsealable) as raised:
        SEALER.open(b"02" + base64.b64encode(raw))
    assert not any(passphrase in str(raised.value) for passphrase in KEYS.values())


@given(st.binary(max_size=40), st.data())
def test_what_is_cut_off_opens_nothing(content: bytes, data: st.DataObject) -> None:
    raw = base64.b64decode(SEALER.seal(content)[2:])
    shorter = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(Unsealable):
        SEALER.open(b"02" + base64.b64encode(shorter))


@pytest.mark.parametrize("text", [b"02!", b"02====", b"02AA A", b"02QQ=", b"02\xff"])
def test_what_is_no_base64_opens_nothing(text: bytes) -> None:
    with pytest.raises(Unsealable):
        SEALER.open(text)


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(Unsealable, match="sealed with key '2024', which is not here"):
        SEALER.open(KeySealer({"2024": "x"}, "2024").seal(b""))


def test_another_passphrase_under_the_same_label_is_told_from_an_unknown_label() -> None:
    with pytest.raises(Unsealable, match="key '2026' had another passphrase"):
        SEALER.open(KeySealer({"2026": "mistyped"}, "2026").seal(b""))


@pytest.mark.parametrize("label", ["k", "ä" * 63, "x" * 127])
def test_labels_within_the_bound(label: str) -> None:
    sealer = KeySealer({label: "p"}, label)
    assert sealer.open(sealer.seal(b"content")) == b"content"


@pytest.mark.parametrize(
    ("keys", "active", "text"),
    [
        ({}, "a", "not among the keys: none"),
        ({"a": "secret"}, "b", "'b' is not among the keys: a"),
        ({"": "secret"}, "", "must have 1 to 127 bytes, not 0"),
        ({"x" * 128: "secret"}, "x" * 128, "not 128"),
        ({"ä" * 64: "secret"}, "ä" * 64, "not 128"),
        ({"a": ""}, "a", "empty passphrase"),
    ],
)
def test_keys_that_cannot_be(keys: dict[str, str], active: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        KeySealer(keys, active)
    assert "secret" not in str(raised.value)
