"""How a control interface authenticates: its secret, its keys, which of them signs. Layer: core."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from dmevpn.config.arguments import KeyFile, check_key
from dmevpn.config.model import AuthenticationPlan, InterfaceConfig, KeyPlan, Statement
from dmevpn.config.statements import Findings, every, has_option, last, value

__all__ = ["authentication"]


def authentication(
    found: Findings, block: InterfaceConfig, read_key: Callable[[str], bytes]
) -> AuthenticationPlan:
    """What the block of a control interface says about it.

    :param read_key: the key in a file; raises ValueError with the reason if there is none.
    """
    said = block.statements
    secret = value(said, "cisco-authentication", cast("bytes | None", None))
    keys: dict[int, KeyPlan] = {}
    lines: dict[int, int] = {}
    for statement in every(said, "authentication-key"):
        key = _key(found, statement, read_key)
        if key is None:
            continue
        if key.spi in keys:
            message = f"every key has an SPI of its own: line {lines[key.spi]} has this one"
            found.error(statement, str(key.spi), message)
            continue
        keys[key.spi], lines[key.spi] = key, statement.line
    first = last(said, "authentication-key")
    if first is not None and keys:
        signs = any(key.signs for key in keys.values())
        if not signs and secret is None:
            message = "nothing is left to sign with: let one key be without accept-only"
            found.error(first, "accept-only", message)
        elif signs and secret is not None:
            message = (
                "anybody who has read the cleartext secret on the wire is still accepted; remove"
                " it when every neighbour signs with a key"
            )
            found.warn(last(said, "cisco-authentication"), "cisco-authentication", message)
    protection = last(said, "replay-protection")
    if protection is not None and first is None:
        message = "replay-protection has no effect without authentication-key"
        found.warn(protection, protection.keyword, message)
    return AuthenticationPlan(
        secret=secret,
        keys=tuple(keys.values()),
        replay_protection=value(said, "replay-protection", True),
    )


def _key(found: Findings, statement: Statement, read_key: Callable[[str], bytes]) -> KeyPlan | None:
    """The key of a statement; None if its file has none, which is reported."""
    spi, algorithm, given = cast("tuple[int, str, bytes | KeyFile]", statement.arguments)
    if isinstance(given, KeyFile):
        try:
            secret = check_key(read_key(given.path))
        except ValueError as error:
            found.error(statement, given.path, str(error))
            return None
    else:
        secret = given
    return KeyPlan(
        spi=spi,
        algorithm=algorithm,
        secret=secret,
        signs=not has_option(statement, "accept-only"),
    )
