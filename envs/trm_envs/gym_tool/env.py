"""trm/Gym-v0: any Gymnasium environment with few actions or text, played by a tool."""

import functools
import math
from collections import Counter
from typing import Any

import gymnasium

from trm_envs.base import ToolEnv
from trm_envs.errors import ScorerFailed
from trm_envs.gym_tool.actions import NAME, action_tool, argument_of, moves_of
from trm_envs.gym_tool.observations import ANSI, load_function, renders_text, shower
from trm_envs.gym_tool.options import GAME, OBSERVATION, PER_EPISODE, SEED, GymOptions
from trm_envs.gym_tool.search import TooLarge, Wins, replayed, winning_line
from trm_envs.judged import finite, judged, text
from trm_envs.own_modules import import_module, told_of_unknown
from trm_envs.tools import ToolResult
from trm_fields import refuse

MAX_LINES = 2000
# searches that may be given up before a game counts as too large to search
MAX_GIVEN_UP = 10


class GymTool(ToolEnv[GymOptions]):
    """A Gymnasium environment whose actions are the calls of one tool, and whose observations are text.

    The seed of `reset` seeds the game, and so makes the task. An action outside the space is told to the model and
    plays nothing. If the game raises on an action, the episode ends with reward 0 as the action's fault, and its
    return is at most `unfinished_reward`. An answer gives up.

    Args:
        env_id: Gymnasium id of the game.
        **options: the fields of `GymOptions`.

    Raises:
        ValueError: if there is no such game, or its actions, observations or success are not what this can use.
    """

    options_class = GymOptions
    may_be_lost = True
    """A game of chance may have tasks that no player wins: there the scripted solver has no turn."""

    def __init__(self, env_id: str = "", **options: Any) -> None:
        super().__init__(env_id=env_id, **options)
        if not env_id:
            refuse("env_id", env_id, "the Gymnasium id of a game", "give it, such as env_id=FrozenLake-v1")
        self._game = self._made()
        space, names = self._game.action_space, list(self.options.actions)
        self._tools = (action_tool(space, names, GymTool.play),)
        self.options.turn_protocol.check_tools(self._tools)
        self._show = shower(self._game, self.options.to_text)
        self._wins = self._success_rule()
        self._is_broken = self._is_won = False
        self._seed, self._moves, self._returns = 0, list[Any](), list[float]()

    @property
    def one_task(self) -> bool:  # type: ignore[override]
        """Return whether the game always begins alike."""
        return self.options.one_task

    @property
    def reward_range(self) -> tuple[float, float]:  # type: ignore[override]
        """Return the bounds of a return: unknown for the game's own rewards."""
        return (-math.inf, math.inf) if self.options.rewards == GAME else (0.0, 1.0)

    @property
    def unfinished_reward(self) -> float:  # type: ignore[override]
        """Return the largest return of an episode that the game did not end itself."""
        given = self.options.unfinished_reward
        return math.inf if given is None else given

    def make_task(self) -> str:
        if self._is_broken:
            self._game.close()
            self._game, self._is_broken = self._made(), False
            self._show = shower(self._game, self.options.to_text)
        self._seed, self._moves, self._returns = int(self.np_random.integers(2**31)), [], []
        self._is_won = False
        observation, _ = self._game.reset(seed=self._seed)
        shown = self._show(observation)
        told = f"Play {self.options.env_id}." if not self.options.rules else self.options.rules
        self.system_prompt = f"{told}\nCall {NAME} to make a move."
        self.task_key = self._key(shown)
        return shown

    def play(self, move: Any) -> ToolResult:
        """Make a move; the tool's function.

        Raises:
            ScorerFailed: if the game raises, or returns what Gymnasium forbids.
        """
        try:
            observation, reward, terminated, truncated, _ = judged(self._game.step, tuple, move)
            self._moves.append(move)
            self._returns.append(judged(float, finite, reward))
            shown = judged(self._show, text, observation)
        except (ScorerFailed, ValueError) as failure:
            self._is_broken = True
            raise ScorerFailed(f"{self.options.env_id} failed on the move {move!r:.80}: {failure}") from failure
        terminated, truncated = bool(terminated), bool(truncated) and not terminated
        if terminated or truncated:
            self._is_won = judged(self._wins, bool, math.fsum(self._returns), truncated, self._game)
        paid = self._returns[-1] if self.options.rewards == GAME else float(self._is_won)
        if truncated and self.options.rewards == GAME and not self._is_won:
            paid = min(paid, self.unfinished_reward - math.fsum(self._returns[:-1]))  # else it would pay to stand still
        return ToolResult(shown, reward=paid, terminated=terminated, truncated=truncated)

    def succeeded(self, episode_return: float, truncated: bool) -> bool:
        return self._is_won

    def score(self, answer: str) -> float:
        """Give up: a game that is not over is worth no more than an unfinished one."""
        return min(0.0, self.unfinished_reward - math.fsum(self._rewards)) if self.options.rewards == GAME else 0.0

    def reminder(self) -> str:
        return f"Call {NAME} to make a move."

    def numbers(self) -> dict[str, float]:
        return {"game_return": math.fsum(self._returns), "game_steps": float(len(self._moves))}

    def solution(self) -> str:
        line = _line(self)
        if line is None or not _same(line[: len(self._moves)], self._moves) or len(line) == len(self._moves):
            raise NotImplementedError(f"no line that wins this task of {self.options.env_id} was found")
        move = line[len(self._moves)]
        return self.call(NAME, action=argument_of(move, list(self.options.actions), self._game.action_space))

    def close(self) -> None:
        self._game.close()

    def _key(self, shown: str) -> str:
        task = self.options.task
        if task in (OBSERVATION, SEED):
            return shown if task == OBSERVATION else str(self._seed)
        return text(load_function("task", task)(self._game))

    def _success_rule(self) -> Wins:
        if self.options.success:
            rule = load_function("success", self.options.success)
            return lambda total, truncated, game: bool(rule(total, truncated, game))
        least = self.options.success_at
        if least is None and self._game.spec is not None:
            least = self._game.spec.reward_threshold
        if least is None:
            refuse(
                "success_at",
                None,
                f"a number, since {self.options.env_id} states no reward_threshold",
                "give the least return that is a success, such as success_at=1.0, or success=my_module:function",
            )
        return lambda total, truncated, game: not truncated and total >= least

    def _made(self) -> Any:
        """Return the game, which renders text if it can and must.

        Raises:
            ValueError: if it cannot be made.
        """
        module, _, env_id = self.options.env_id.rpartition(":")
        settings = {"disable_env_checker": True, **self.options.env_kwargs}
        try:
            if module:
                import_module(module)
                if env_id not in gymnasium.registry:
                    raise ValueError(told_of_unknown(env_id, module))
            game = gymnasium.make(env_id, **settings)
            if not self.options.to_text and renders_text(game):
                game.close()
                game = gymnasium.make(env_id, **{"render_mode": ANSI, **settings})
        except Exception as error:
            refuse(
                "env_id",
                self.options.env_id,
                "a game that Gymnasium makes",
                "fix the id or env_kwargs, or install what it needs",
                because=f"({type(error).__name__}: {' '.join(str(error).split())})",
            )
        if isinstance(game.unwrapped, ToolEnv):
            refuse("env_id", self.options.env_id, "a plain game", "use this id itself, which is a ToolEnv")
        return game

    def _with_options(self, base: Any, changes: dict[str, Any]) -> Any:
        fixed = sorted(changes.keys() - PER_EPISODE)
        if hasattr(self, "_game") and fixed and fixed[0] in vars(self.options):
            refuse(f"reset: {fixed[0]}", changes[fixed[0]], ", ".join(sorted(PER_EPISODE)), "give it to gymnasium.make")
        return super()._with_options(base, changes)


def _line(env: GymTool) -> list[Any] | None:
    """Return the winning line of the present task. A game with one task tries that of seed 0 first."""
    options = env.options
    rules = options.success_at, options.success, options.to_text
    search = functools.partial(_found, repr((options.env_id, options.env_kwargs, *rules)), env)
    if env.one_task and (line := search(0)) and _replays(env, line):
        return line
    return search(env._seed)


_lines: dict[tuple[str, int], list[Any] | None] = {}
# searches of a game that were given up, while none has found anything
_given_up: Counter[str] = Counter()


def _found(name: str, env: GymTool, seed: int) -> list[Any] | None:
    line = _lines.get((name, seed))
    if line is None and (name, seed) not in _lines:
        if len(_lines) >= MAX_LINES:
            _lines.clear()
        if _given_up[name] < MAX_GIVEN_UP:
            line = _searched(name, env, seed)
        _lines[name, seed] = line
    return line


def _searched(name: str, env: GymTool, seed: int) -> list[Any] | None:
    moves = moves_of(env._game.action_space)
    game = env._made()
    try:
        line = moves and winning_line(game, seed, moves, env._wins, shower(game, env.options.to_text))
    except TooLarge:
        _given_up[name] += 1
        return None
    finally:
        game.close()
    if line:
        # the others are worth their time
        _given_up[name] = -(2**63)
    return line


def _replays(env: GymTool, line: list[Any]) -> bool:
    """Return True if a line of another seed wins this task too."""
    game = env._made()
    try:
        played = replayed(game, env._seed, line)
        return played is not None and played.is_over and env._wins(played.total, played.truncated, game)
    finally:
        game.close()


def _same(one: list[Any], other: list[Any]) -> bool:
    return [str(move) for move in one] == [str(move) for move in other]
