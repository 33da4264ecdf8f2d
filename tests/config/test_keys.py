"""Keys of the keyed hash in the configuration file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmevpn.config.arguments import ALGORITHMS
from dmevpn.config.diff import Changes, Difference, diff
from dmevpn.config.model import AuthenticationPlan, KeyPlan, Plan
from dmevpn.config.parser import mask_secrets
from dmevpn.config.resolve import check
from dmevpn.nhrp import keyed
from dmevpn.roles.configfile import ConfigFile, read_key
from tests.config.files import SPOKE

KEY = "sixteen-octets!!"
OTHER = "another-sixteen!"


def resolved(words: str) -> tuple[AuthenticationPlan | None, list[str]]:
    """What words of a control interface amount to, and what is said about them."""
    found = check(f"{SPOKE}\ninterface nhrp\n{words}", "f", "f", lambda path: path.encode())
    plan = None if found.plan is None else found.plan.speakers[0].authentication
    return plan, found.messages


def test_the_last_key_signs() -> None:
    """Every key is accepted; of those that may sign, the last does."""
    plan, messages = resolved(
        f"authentication-key 2 hmac-md5 {KEY}\n"
        f"authentication-key 65535 hmac-sha-256 {OTHER} accept-only\nreplay-protection no"
    )
    assert messages == []
    assert plan == AuthenticationPlan(
        keys=(
            KeyPlan(spi=2, algorithm="hmac-md5", secret=KEY.encode()),
            KeyPlan(spi=65535, algorithm="hmac-sha-256", secret=OTHER.encode(), signs=False),
        ),
        replay_protection=False,
    )


def test_algorithms() -> None:
    """What can be configured is what there is."""
    assert tuple(keyed.ALGORITHMS) == ALGORITHMS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"authentication-key 1 hmac-md5 {KEY}", "SPI 1 is the cleartext secret"),
        (f"authentication-key 0 hmac-md5 {KEY}", "an SPI from 2 to 65535"),
        (f"authentication-key 65536 hmac-md5 {KEY}", "an SPI from 2 to 65535"),
        (f"authentication-key 2 hmac-sha1 {KEY}", "hmac-sha-256 or hmac-md5 is expected"),
        (f"authentication-key 2 {KEY}", "hmac-sha-256 or hmac-md5 is expected"),
        ("authentication-key 2 hmac-md5", "KEY|file:PATH is missing"),
        ("authentication-key 2 hmac-md5 fifteen-octets!", "a key has 16 to 128 octets"),
        (f"authentication-key 2 hmac-md5 {129 * 'x'}", "a key has 16 to 128 octets"),
        ("authentication-key 2 hmac-md5 file:key", "the path from the root is expected"),
        ("authentication-key 2 hmac-md5 file:/short", "a key has 16 to 128 octets near '/short'"),
        (f"authentication-key 2 hmac-md5 {KEY} accept-only", "nothing is left to sign with"),
        (f"authentication-key 2 hmac-md5 {KEY} {OTHER}", "a secret is one word"),
        (
            f"authentication-key 2 hmac-md5 {KEY}\nauthentication-key 2 hmac-md5 {OTHER}",
            "every key has an SPI of its own",
        ),
    ],
)
def test_mistakes(words: str, message: str) -> None:
    """A mistake is named with its line, and without the key."""
    plan, messages = resolved(words)
    assert plan is None
    assert any(message in each for each in messages)
    for each in messages:
        assert each.startswith("f:")
        for secret in (KEY, OTHER, "fifteen", "xxx"):
            assert secret not in each


def test_warnings() -> None:
    """What is left of the cleartext secret, and what does nothing, is said."""
    _, messages = resolved(f"cisco-authentication x\nauthentication-key 2 hmac-md5 {KEY}")
    assert ["still accepted" in each for each in messages] == [True]
    words = f"cisco-authentication x\nauthentication-key 2 hmac-md5 {KEY} accept-only"
    assert resolved(words)[1] == []
    _, messages = resolved("replay-protection yes")
    assert ["no effect" in each for each in messages] == [True]


def test_keys_do_not_show() -> None:
    """Neither in the text of the file, nor in what is made from it."""
    text = (
        f"authentication-key 2 hmac-md5 {KEY} accept-only # authentication-key 3 hmac-md5 {KEY}\n"
        f"authentication-key {KEY} hmac-md5\nauthentication-key 2 {KEY}\n"
        f"# authentication-key {KEY}\nauthentication-key 2 hmac-md5 file:/{KEY}\n"
    )
    masked = mask_secrets(text)
    assert KEY not in masked
    assert masked.startswith("authentication-key 2 hmac-md5 *** accept-only")
    plan, _ = resolved(f"authentication-key 2 hmac-md5 {KEY}")
    assert plan is not None
    assert KEY not in repr(plan)
    assert KEY not in repr(keyed.Key(2, "hmac-md5", KEY.encode()))


def test_reload() -> None:
    """Other keys restart nothing; something else of the interface does, and brings the keys."""

    def planned(words: str) -> Plan:
        plan = check(f"{SPOKE}\ninterface nhrp\n{words}", "f", "f").plan
        assert plan is not None
        return plan

    old, new = planned(f"authentication-key 2 hmac-md5 {KEY}"), planned("cisco-authentication x")
    assert diff(old, new) == Changes(
        speakers=Difference(changed=((old.speakers[0], new.speakers[0]),))
    )
    new = planned("gre-key 9 cisco-authentication x")
    changes = diff(old, new)
    assert (changes.speakers.changed, changes.speakers.to_start) == ((), new.speakers)


class TestFiles:
    """Keys that are kept beside the configuration."""

    @pytest.mark.parametrize("content", [b"0123456789abcdef", b"0123456789abcdef\n", None])
    def test_content(self, tmp_path: Path, content: bytes | None) -> None:
        """All of it is the key, but for one line end; it may be any octets."""
        key = b"\xff\0\r\n0123456789 \n"
        path = tmp_path / "key"
        path.write_bytes(key + b"\r\n" if content is None else content)
        path.chmod(0o640)
        assert read_key(str(path)) == (key if content is None else b"0123456789abcdef")

    @pytest.mark.parametrize("mode", [0o644, 0o602, 0o601])
    def test_who_may_use_it(self, tmp_path: Path, mode: int) -> None:
        """A key that everybody can read or change is none, and the message has the cure."""
        path = tmp_path / "key"
        path.write_text(KEY)
        path.chmod(mode)
        with pytest.raises(ValueError, match=f"mode 0{mode:o}.*chmod o= ") as caught:
            read_key(str(path))
        assert KEY not in str(caught.value)

    def test_no_file(self, tmp_path: Path) -> None:
        """What is no regular file is refused at once, even one that would make us wait."""
        with pytest.raises(ValueError, match="No such file"):
            read_key(str(tmp_path / "none"))
        with pytest.raises(ValueError, match="directory"):
            read_key(str(tmp_path))
        os.mkfifo(tmp_path / "pipe", 0o600)
        with pytest.raises(ValueError, match="regular file"):
            read_key(str(tmp_path / "pipe"))

    def test_load(self, tmp_path: Path) -> None:
        """The daemon reads it with its configuration, and `--check` does."""
        key, file = tmp_path / "key", tmp_path / "spoke.conf"
        key.write_text(KEY + "\n")
        key.chmod(0o600)
        file.write_text(f"{SPOKE}\ninterface nhrp\nauthentication-key 2 hmac-sha-256 file:{key}\n")
        plan, messages = ConfigFile(str(file)).load()
        assert plan is not None and messages == []
        assert plan.speakers[0].authentication.keys[0].secret == KEY.encode()
        key.chmod(0o644)
        plan, messages = ConfigFile(str(file)).load()
        line = len(file.read_text().splitlines())
        assert plan is None
        assert [each.startswith(f"{file}:{line}: everybody may use") for each in messages] == [True]
