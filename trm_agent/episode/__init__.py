"""Engine-agnostic episodes: an environment, a token generator and limits make one token-aligned trajectory."""

from trm_agent.episode.chat import ChatTokens
from trm_agent.episode.chat_settings import ChatSettings, chat_tokens
from trm_agent.episode.env_threads import EnvThreads
from trm_agent.episode.limits import Limits
from trm_agent.episode.loop import run_episode
from trm_agent.episode.outcomes import Fault, StopReason
from trm_agent.episode.pauses import Pauses
from trm_agent.episode.record import episode_record
from trm_agent.episode.slots import tune_garbage_collection
from trm_agent.episode.types import Episode, Generation, Generator, Turn

__all__ = [
    "ChatSettings",
    "ChatTokens",
    "EnvThreads",
    "Episode",
    "Fault",
    "Generation",
    "Generator",
    "Limits",
    "Pauses",
    "StopReason",
    "Turn",
    "chat_tokens",
    "episode_record",
    "run_episode",
    "tune_garbage_collection",
]
