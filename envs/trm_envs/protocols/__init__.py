"""Protocols, the syntax of a model's tool calls and answers: an index by name."""

from trm_envs.protocols.arg_tags import ArgTags
from trm_envs.protocols.fenced import Fenced
from trm_envs.protocols.function_tags import FunctionTags
from trm_envs.protocols.hermes import Hermes
from trm_envs.protocols.interface import TurnProtocol
from trm_envs.protocols.tags import Tags

PROTOCOLS: dict[str, TurnProtocol] = {
    protocol.name: protocol for protocol in (Hermes(), Fenced(), Tags(), FunctionTags(), ArgTags())
}

__all__ = [
    "PROTOCOLS",
    "ArgTags",
    "Fenced",
    "FunctionTags",
    "Hermes",
    "Tags",
    "TurnProtocol",
]
