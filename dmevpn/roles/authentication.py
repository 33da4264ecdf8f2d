"""From what the configuration says about authentication to what does it. Layer: role."""

from __future__ import annotations

from dmevpn.config.model import AuthenticationPlan
from dmevpn.interfaces import IAuthenticator
from dmevpn.nhrp.authentication import CiscoAuthentication
from dmevpn.nhrp.keyed import EitherAuthentication, Key, KeyedAuthentication
from dmevpn.nhrp.replay import ReplayGuard

__all__ = ["make_authenticator"]


def make_authenticator(plan: AuthenticationPlan, guard: ReplayGuard) -> IAuthenticator | None:
    """What signs and verifies as planned; None if packets carry nothing.

    :param guard: of the control interface. It stays when keys change: the runs it knows do.
    """
    cleartext = None if plan.secret is None else CiscoAuthentication(plan.secret)
    keys = [Key(key.spi, key.algorithm, key.secret) for key in plan.keys]
    if not keys:
        return cleartext
    signers = [key for key, planned in zip(keys, plan.keys, strict=True) if planned.signs]
    keyed = KeyedAuthentication(
        signers[-1] if signers else keys[-1],
        keys,
        guard if plan.replay_protection else None,
    )
    if cleartext is None:
        return keyed
    return EitherAuthentication(cleartext, keyed, signs=bool(signers))
