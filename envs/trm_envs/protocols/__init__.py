"""How a model writes tool calls and answers: an index of the protocols by name."""

from trm_envs.protocols.fenced import Fenced
from trm_envs.protocols.hermes import Hermes
from trm_envs.protocols.interface import TurnProtocol
from trm_envs.protocols.tags import Tags

PROTOCOLS: dict[str, TurnProtocol] = {protocol.name: protocol for protocol in (Hermes(), Fenced(), Tags())}

__all__ = [
    "PROTOCOLS",
    "Fenced",
    "Hermes",
    "Tags",
    "TurnProtocol",
]
