"""Which VPN a packet belongs to, and how one to a peer says so (RFC 2735 §3, §4.1). Layer: core.

A packet names its VPN in a header, or its path implies it: a peer's address or a GRE key may be
configured for one. What neither names nor implies one is in the default routing instance, unless
that is mapped to a VPN or switched off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dmevpn.addresses import VPNID, Path
from dmevpn.errors import NHRPError
from dmevpn.nhrp.constants import ErrorCode
from dmevpn.nhrp.encapsulation import Encapsulation, Form
from dmevpn.nhrp.indication import embedded_vpn
from dmevpn.nhrp.packet import ErrorIndication, Packet, RequestOrReply
from dmevpn.nhrp.peers import Peer, Peers, ours, recognise

__all__ = ["Naming"]

# A member of an enumeration takes longer to look up than a dictionary: these are for every packet.
_PLAIN: Final = Form.PLAIN
_RFC: Final = Form.RFC


class Naming:
    """How VPNs are named on the paths of a control interface.

    :ivar oui: of VPN identifiers in packets that carry only an index.
    :ivar by_key: the VPN of packets that name none, by their GRE key.
    :param plain_vpn: the VPN of packets that name none, unless peer or key imply one; None: the
        default routing instance.
    :param plain: False drops those packets instead.
    :param legacy_detection: whether the byte order of a VNI may tell the original daemon.
    """

    def __init__(
        self,
        peers: Peers,
        *,
        oui: bytes,
        by_key: Mapping[int, VPNID] | None = None,
        plain_vpn: VPNID | None = None,
        plain: bool = True,
        legacy_detection: bool = True,
    ) -> None:
        self.oui = oui
        self.by_key: dict[int | None, VPNID] = {
            key: vpn_id for key, vpn_id in (by_key or {}).items()
        }
        self._peers = peers
        self._plain_vpn = plain_vpn
        self._plain = plain
        self._legacy_detection = legacy_detection

    def form(self, vpn_id: VPNID | None, path: Path) -> Form | None:
        """The form in which packets of a VPN go to ``path.peer``.

        :return: None if none would be taken for a packet of this VPN there.
        """
        peer = self._peers.get(path.peer)
        if peer is None and not self.by_key:
            return _PLAIN if vpn_id is None else _RFC
        configured = self._configured(peer, path)
        if vpn_id is None:
            return Form.PLAIN if configured is None else None
        if peer is None:
            return Form.RFC if configured != vpn_id else Form.PLAIN
        if peer.form is not Form.PLAIN:
            return peer.form
        if vpn_id == self.implied(peer, path):
            return Form.PLAIN
        return None if peer.dialect.form is Form.PLAIN else peer.dialect.form

    def vpn_id(
        self, packet: Packet, encapsulation: Encapsulation, peer: Peer | None, path: Path
    ) -> VPNID | None:
        """The VPN of a packet.

        :param peer: what is known of who sent it.
        :raises NHRPError: VPN mismatch (RFC 2735 §4.3) if its path is configured for another one,
            and if packets in none are not taken.
        """
        named = encapsulation.vpn_id
        if named is None and isinstance(packet, ErrorIndication):
            # The original daemon names the VPN of an error in the packet at fault only.
            named = embedded_vpn(packet, self.oui)
        if named is None:
            implied = self.implied(peer, path)
            if implied is None and not self._plain:
                raise NHRPError("vpn_missing")
            return implied
        if self._configured(peer, path) not in (None, named):
            raise NHRPError("vpn_mismatch", code=ErrorCode.VPN_MISMATCH)
        return named

    def heard(
        self, packet: Packet, form: Form, vpn_id: VPNID | None, peer: Peer | None, path: Path
    ) -> Peer | None:
        """What is known of a peer after a packet; None if it is like us.

        :param vpn_id: of the packet.
        :param peer: what was known before.
        """
        if not isinstance(packet, RequestOrReply):
            # The original daemon sends its indications in plain form whatever they are about.
            return peer
        if form is Form.PLAIN:
            if self._legacy_detection:
                peer = recognise(packet, peer)
            if vpn_id is None or path.key in self.by_key:
                return peer
        elif form is Form.RFC and peer is None:
            return None
        return ours(form) if peer is None else peer.heard(form)

    def implied(self, peer: Peer | None, path: Path) -> VPNID | None:
        """The VPN of packets on a path that name none; None: the default routing instance."""
        configured = self._configured(peer, path)
        return self._plain_vpn if configured is None else configured

    def _configured(self, peer: Peer | None, path: Path) -> VPNID | None:
        """The one VPN that a path is configured for."""
        if peer is not None and peer.vpn_id is not None:
            return peer.vpn_id
        return self.by_key.get(path.key)
