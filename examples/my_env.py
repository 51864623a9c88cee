"""Follow a chain of keys: each look-up tells the next one."""

import gymnasium

from trm_envs import ToolEnv, ToolError, tool


class KeyChain(ToolEnv):
    system_prompt = "Look up each key that you are told. Give the last one as {answer}."
    answer_form = "key"

    def make_task(self) -> str:
        self.keys = [int(key) for key in self.np_random.integers(100, 1000, self.options.horizon + 1)]
        self.place, self.task_key = 0, str(self.keys)
        return f"Start with {self.keys[0]}."

    @tool
    def look_up(self, key: int) -> str:
        """Return what a key leads to."""
        if self.place == self.options.horizon or key != self.keys[self.place]:
            raise ToolError("no such key")
        self.place += 1
        return f"{'Last' if self.place == self.options.horizon else 'Next'} key: {self.keys[self.place]}."

    def score(self, answer: str) -> float:
        return float(self.place == self.options.horizon and answer == str(self.keys[-1]))

    def solution(self) -> str:
        key = self.keys[self.place]
        return self.answer(str(key)) if self.place == self.options.horizon else self.call("look_up", key=key)


gymnasium.register("mine/KeyChain-v0", KeyChain)
