"""The states of a registration, and what leads from one to another (RFC 2332 §5.2.3). Layer: core.

docs/state-machines.md draws the table. A pair of state and input that is not there is ignored: a
timer or a reply was too late to matter.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ["TRANSITIONS", "Input", "State"]


class State(Enum):
    """Where we stand with a server."""

    IDLE = "idle"
    """Not started, or stopped."""
    REGISTERING = "registering"
    """Asked; no answer so far."""
    REGISTERED = "registered"
    """The server has our binding; it may be asked things."""
    REFUSED = "refused"
    """The server said no; we ask again after a while."""
    DOWN = "down"
    """The server does not answer; we go on asking."""


class Input(Enum):
    """What moves the state."""

    START = "start"
    """The owner wants us registered."""
    ACK = "ack"
    """A Registration Reply that accepts."""
    CONFLICT = "conflict"
    """The first reply since the last ack that says: registered by somebody else (code 14)."""
    NAK = "nak"
    """Any other reply that refuses."""
    ERROR = "error"
    """An Error Indication about our request."""
    SILENCE = "silence"
    """DOWN_AFTER transmissions, and each one after, without a reply."""
    RENEW = "renew"
    """The time to renew has come, or the operator wants it now."""
    RETRY = "retry"
    """The pause after a refusal, an error or a conflict is over."""
    EXPIRE = "expire"
    """The holding time has passed without an ack."""
    REVOKE = "revoke"
    """The server has taken our binding back, since it is about to stop or wants to be left; or it
    has refused us or was away, and would have us now."""
    STOP = "stop"
    """The owner wants that no more."""


_ALL_BUT_IDLE = (State.REGISTERING, State.REGISTERED, State.REFUSED, State.DOWN)
#: States in which a request may be under way.
_ASKING = (State.REGISTERING, State.REGISTERED, State.DOWN)

#: The state that follows, by state and input.
TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.IDLE, Input.START): State.REGISTERING,
    **{(state, Input.ACK): State.REGISTERED for state in _ASKING},
    **{(state, Input.CONFLICT): State.REGISTERING for state in _ASKING},
    **{(state, Input.NAK): State.REFUSED for state in _ASKING},
    **{(state, Input.ERROR): State.REFUSED for state in _ASKING},
    **{(state, Input.SILENCE): State.DOWN for state in _ASKING},
    (State.REGISTERING, Input.RENEW): State.REGISTERING,
    (State.REGISTERED, Input.RENEW): State.REGISTERED,
    (State.REFUSED, Input.RENEW): State.REGISTERING,
    (State.DOWN, Input.RENEW): State.DOWN,
    (State.REGISTERING, Input.RETRY): State.REGISTERING,
    (State.REFUSED, Input.RETRY): State.REGISTERING,
    (State.REGISTERING, Input.EXPIRE): State.REGISTERING,
    (State.REGISTERED, Input.EXPIRE): State.DOWN,
    (State.REFUSED, Input.EXPIRE): State.REFUSED,
    (State.DOWN, Input.EXPIRE): State.DOWN,
    (State.REGISTERED, Input.REVOKE): State.REGISTERING,
    (State.REFUSED, Input.REVOKE): State.REGISTERING,
    (State.DOWN, Input.REVOKE): State.REGISTERING,
    **{(state, Input.STOP): State.IDLE for state in _ALL_BUT_IDLE},
}
