"""A site with several hubs, which send each other what their sites flood. Layer: role.

Each hub is told of the others (see :mod:`dmevpn.nhrp.multihoming`), so that the site gets every
frame once, and never its own: from the hub that it was flooded to, if that is one of the site's
hubs, else from the first of them. Which of its hubs the site floods to does not matter for that,
and no hub needs to know it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dmevpn.nhrp.registration import RegistrationClient, State

__all__ = ["introduce", "is_expected"]


def introduce(
    clients: Sequence[RegistrationClient], starting: Collection[RegistrationClient] = ()
) -> None:
    """Tell each hub of the others, as far as they are there.

    :param clients: of one site, by preference, with hubs that understand it.
    :param starting: those of them that are about to be asked for the first time.
    """
    there = [client for client in clients if client.there or client in starting]
    for client in clients:
        others = tuple([each.nhs for each in there if each is not client])
        client.set_others(others, leave=bool(others) and there[0] is not client)


def is_expected(client: RegistrationClient, clients: Sequence[RegistrationClient]) -> bool:
    """Whether the site may flood to a hub: the others know that it is there, and will not give us
    our own frames back that they get from it."""
    return all(
        client.nhs in each.told
        for each in clients
        if each is not client and each.state is State.REGISTERED
    )
