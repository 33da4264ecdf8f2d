"""``make chaos``: real daemons, whatever may befall them, and whether what is promised is kept.

Two hubs and four sites stretch two VPNs; a station of each VPN at each site sends numbered frames
to every other all the time. Faults come by chance, which follows a seed, some at once. After each,
everything must be as if nothing had been. What may happen is in :mod:`lab.chaos.faults`, what must
hold in :mod:`lab.chaos.driver`.
"""
