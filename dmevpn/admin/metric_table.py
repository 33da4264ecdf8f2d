"""What each metric means, by the name that Prometheus sees. Layer: admin.

HELP lines and docs/metrics.md come from here; a test finds metrics that have no row.
"""

from __future__ import annotations

__all__ = ["METRICS"]

METRICS = {
    # --- the daemon ---
    "dmevpn_build_info": "Versions of dmevpn, Python and Twisted as labels; always 1.",
    "dmevpn_garbage_collection_seconds": "Seconds that a full search for garbage kept the daemon.",
    "dmevpn_garbage_found_late_total": "Objects that were garbage after they had been set aside.",
    "dmevpn_admin_clients_refused_total": "Operators turned away: too many were connected, they"
    " were not allowed, or what they sent made no sense.",
    "dmevpn_admin_listings_refused_total": "Listings turned away: a client had too many half read.",
    "dmevpn_admin_calls_delayed_total": "Calls of operators that had to wait: who made them was too"
    " far ahead of its answers.",
    "dmevpn_admin_watchers_dropped_total": "Watching operators dropped: they read too slowly.",
    "dmevpn_web_connections_refused_total": "Connections closed at once: too many were open.",
    "dmevpn_complaints_full_total": "Lines not logged: too many peers were logged about.",
    "dmevpn_journal_forgotten_total": "Events that made room for later ones in the journal.",
    "dmevpn_status_refused_total": "Status pages and tables turned away: too many were open.",
    "dmevpn_status_dropped_total": "Status pages dropped: they read nothing for a minute.",
    "dmevpn_scrapes_refused_total": "Scrapes turned away because others were under way.",
    "dmevpn_reloads_refused_total": "Configuration files with mistakes, or too large: what ran"
    " before still runs.",
    "dmevpn_log_files_rotated_total": "Log files that were full, or rotated by SIGUSR1.",
    "dmevpn_log_files_removed_total": "Oldest log files that made room for others.",
    "dmevpn_script_runs_total": "Runs of the operator's script, by event and outcome: ok, failed,"
    " timeout, cancelled, or refused for want of room.",
    "dmevpn_scripts_waiting": "Runs of it that wait for their turn.",
    # --- VPNs ---
    "dmevpn_vpn_members": "VTEPs registered in a VPN (hub).",
    "dmevpn_vpn_macs": "MAC addresses that the switch has learned in a VPN (hub).",
    "dmevpn_vpn_shortcuts": "MAC addresses that are reached directly in a VPN (spoke).",
    "dmevpn_vpn_pending": "Resolutions under way in a VPN (spoke).",
    "dmevpn_carrier_changes_total": "Times that flooding went over to another hub (spoke).",
    "dmevpn_keepalives_sent_total": "Keepalives that asked hubs for a sign of life (spoke).",
    "dmevpn_servers_silent_total": "Times that a hub answered no keepalives any more (spoke).",
    "dmevpn_registration_up": "Whether the hub has our registration (spoke): 1 or 0.",
    # --- frames at a hub ---
    "dmevpn_member_rx_packets_total": "Frames that the switch received from a member.",
    "dmevpn_member_rx_bytes_total": "Their octets.",
    "dmevpn_member_tx_packets_total": "Frames that the switch sent to a member.",
    "dmevpn_member_tx_bytes_total": "Their octets.",
    "dmevpn_member_flooded_packets_total": "Frames of a member that went to all sites: broadcast,"
    " multicast, unknown destination.",
    "dmevpn_member_dropped_packets_total": "Frames of a member that were dropped.",
    "dmevpn_switch_drops_total": "Frames and events that the switch dropped, by reason.",
    "dmevpn_switch_full_total": "Members or VPNs that the switch had no room for.",
    "dmevpn_state_saves_failed_total": "Times that what a successor should know could not be"
    " written.",
    "dmevpn_switch_repairs_total": "Entries of the switch's tables that somebody else changed and"
    " that were put right.",
    "dmevpn_switch_errors_total": "Changes of the switch's tables that the kernel refused.",
    "dmevpn_switch_events_lost_total": "Times that events of the switch were lost; its table was"
    " compared then.",
    "dmevpn_macs_learned_total": "MAC addresses that the switch has learned.",
    "dmevpn_macs_moved_total": "MAC addresses that came to send from another member.",
    "dmevpn_macs_aged_total": "MAC addresses that were forgotten because they were silent.",
    "dmevpn_macs_held_total": "MAC addresses that moved too often and were held at a member.",
    "dmevpn_macs_held_unlisted_total": "Held MAC addresses that the list of them had no room for.",
    "dmevpn_mac_moves_refused_total": "Reports of frames of a sticky MAC address from another site"
    " than its own.",
    "dmevpn_loops": "Loops through a hub: sites that are connected behind it.",
    "dmevpn_loops_found_total": "Loops that were found.",
    "dmevpn_loop_probes_sent_total": "Broadcasts sent to sites to find loops.",
    "dmevpn_floods_limited_total": "Reports that a member flooded more than its budget.",
    "dmevpn_mac_limit_reached_total": "Reports that the MAC table of a VPN, or a member's share of"
    " it, is full.",
    "dmevpn_senders_refused_total": "Reports of frames from somebody who is no member.",
    "dmevpn_amnesia_full_total": "MAC addresses that could not be purged at all members after a"
    " restart.",
    # --- frames at a spoke ---
    "dmevpn_plane_rx_packets_total": "Frames received by a plane: hub or shortcut; both if they"
    " are one device.",
    "dmevpn_plane_rx_bytes_total": "Their octets.",
    "dmevpn_plane_tx_packets_total": "Frames sent by a plane: hub or shortcut; both if they are one"
    " device.",
    "dmevpn_plane_tx_bytes_total": "Their octets.",
    "dmevpn_fdb_entries": "Entries of ours in the kernel's forwarding database, by state.",
    "dmevpn_fdb_misses_total": "Frames for MAC addresses without an entry, as the kernel tells.",
    "dmevpn_fdb_misses_late_total": "Reports of misses that were out of date.",
    "dmevpn_fdb_misses_lost_total": "Netlink overruns: reports of misses were lost.",
    "dmevpn_fdb_changes_lost_total": "Netlink overruns: reports of changes were lost, and the"
    " tables read again.",
    "dmevpn_mtu_mismatches_total": "Sites that joined or were resolved whose MTU is not ours.",
    "dmevpn_device_faults_total": "Changes of our devices by somebody else, and devices that went"
    " down.",
    "dmevpn_device_repairs_total": "Times that our devices were put right after that.",
    "dmevpn_fdb_repairs_total": "Entries that somebody else changed and that were put right.",
    "dmevpn_fdb_changes_too_many_total": "Times that somebody else changed more entries than are"
    " looked at one by one, and the tables were read whole.",
    "dmevpn_fdb_entries_by_hand": "Entries for stations that were made by hand, when the tables"
    " were last read whole.",
    "dmevpn_fdb_refused_total": "Entries that the kernel refused.",
    "dmevpn_fdb_holds_evicted_total": "Holds given up because there were too many.",
    "dmevpn_install_failures_total": "Shortcuts that could not be installed; the MAC stays with the"
    " hub.",
    # --- NHRP ---
    "dmevpn_packets_total": "NHRP packets by VPN, type and direction.",
    "dmevpn_packets_forwarded_total": "NHRP packets passed on to another server.",
    "dmevpn_passed_on_full_total": "Questions about MAC addresses behind another hub that were"
    " passed on, but whose address is not kept from ageing, since too many are.",
    "dmevpn_drops_total": "NHRP packets and requests that were discarded, by reason.",
    "dmevpn_errors_sent_total": "Error Indications sent, by code.",
    "dmevpn_error_sources_forgotten_total": "Peers whose budget of errors was forgotten: too many"
    " are remembered.",
    "dmevpn_turned_away_forgotten_total": "Clients whose VPN is not served, and that will not be"
    " called when it is: too many are remembered.",
    "dmevpn_errors_received_total": "Error Indications received, by code.",
    "dmevpn_registration_answers_total": "Registrations answered, by CIE code (0: accepted).",
    "dmevpn_registrations_not_held_total": "Registrations refused because too many waited for the"
    " operator's script.",
    "dmevpn_resolution_answers_total": "Resolutions answered, by CIE code (0: found).",
    "dmevpn_shared_room_full_total": "Bindings and answers of a hub for which there was no room"
    " beside those of all its VPNs, by what.",
    "dmevpn_answered_full_total": "Answers not noted for a later purge, for want of room.",
    "dmevpn_left_sites_forgotten_total": "Times that sites which have left were forgotten to have"
    " registered themselves, for want of room.",
    "dmevpn_codec_memories_emptied_total": "Times that what had been read of packets before was"
    " forgotten, since it was too much; it is read again.",
    "dmevpn_keepalives_forgotten_total": "Times that keepalives, which are answered without being"
    " read, were forgotten, since they were too many; they are read again.",
    "dmevpn_questions_forgotten_total": "Times that kinds of Resolution Requests, which are"
    " answered without being read as packets, were forgotten, since they were too many; they are"
    " read again.",
    "dmevpn_host_addresses_ignored_total": "Addresses of a host name beyond those that are used.",
    "dmevpn_peers_full_total": "Peers whose form was not remembered, for want of room.",
    "dmevpn_registrations_down_total": "Registrations of ours that were lost.",
    "dmevpn_registrations_refused_total": "Registrations of ours that a hub refused.",
    "dmevpn_resolutions_asked_total": "Resolution Requests asked.",
    "dmevpn_resolutions_answered_total": "Outcomes of our Resolution Requests.",
    "dmevpn_answers_confirmed_total": "Answers of a hub that is asked no more, by what the"
    " hub that is asked now says about them.",
    "dmevpn_resolutions_not_asked_total": "Misses for which nothing was asked, by reason.",
    "dmevpn_resolution_seconds": "Seconds from a Resolution Request to its reply.",
    "dmevpn_forwarding_failures_total": "Neighbours and routes that the kernel refused.",
    "dmevpn_neighbour_misses_total": "Next hops that the kernel asked us for.",
    "dmevpn_tapped_packets_total": "Data packets that were looked at for detours.",
    "dmevpn_traffic_indications_received_total": "Traffic Indications about packets of ours.",
    "dmevpn_traffic_indications_sent_total": "Traffic Indications sent to clients.",
    "dmevpn_traffic_indications_suppressed_total": "Detours seen beyond the limits of a pair.",
    "dmevpn_traffic_pairs_forgotten_total": "Pairs forgotten because there were too many.",
    "dmevpn_retransmissions_total": "Requests that were sent again.",
    "dmevpn_challenges_sent_total": "Neighbours that were told our run: they did not name it.",
    "dmevpn_challenges_suppressed_total": "Neighbours that were not told it, beyond the rate.",
    "dmevpn_challenges_heeded_total": "Neighbours that told us their run.",
    "dmevpn_replay_runs_forgotten_total": "Times that every neighbour's run was forgotten, for want"
    " of room.",
    "dmevpn_replay_packets_forgotten_total": "Packets that a neighbour could not have sent again if"
    " it told us its run now: too many others were sent since.",
    "dmevpn_request_id_saves_failed_total": "Times that no file took the request identifiers.",
    "dmevpn_request_id_saves_late_total": "Blocks of them that the disk was late for.",
    "dmevpn_requests_timed_out_total": "Requests that nobody answered.",
    "dmevpn_requests_refused_total": "Requests not sent because too many waited for answers.",
    "dmevpn_purges_sent_total": "Purge Requests sent.",
    "dmevpn_purges_unanswered_total": "Purge Requests that nobody acknowledged.",
    "dmevpn_bindings_expired_total": "Bindings that ran out.",
    "dmevpn_cache_full_total": "Bindings not kept because the cache was full.",
    "dmevpn_cache_evictions_total": "Bindings that made room for others.",
    # --- the GRE sockets ---
    "dmevpn_datagrams_received_total": "Datagrams received.",
    "dmevpn_datagrams_sent_total": "Datagrams sent.",
    "dmevpn_datagrams_lost_total": "Datagrams that the kernel did not take, by error.",
    "dmevpn_datagram_overruns": "Datagrams that the kernel dropped because we read too slowly.",
    "dmevpn_datagrams_waiting_octets": "Octets that wait while other peers have their turn.",
    "dmevpn_known_peers_full_total": "Peers left among strangers: too many are known.",
    "dmevpn_sources_refused_total": "Sources that the daemon had a socket refuse for a second.",
    "dmevpn_receive_errors_total": "Errors of a GRE socket.",
    "dmevpn_control_device_changes_total": "Changes of a control interface's GRE device.",
    "dmevpn_netlink_overruns_total": "Times that notices of them were lost: it was read.",
    "dmevpn_transport_resumptions_total": "Times that it carried again, or to other peers.",
}
