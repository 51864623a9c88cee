"""Few prompts at a time for many workers of verl, in turn."""

from typing import Any


class InTurn:
    """A mixin for a manager of verl, which gives a batch of fewer prompts than workers to the first of them always."""

    agent_loop_workers: list[Any]

    def generate_sequences(self, prompts: Any) -> None:
        super().generate_sequences(prompts)  # type: ignore[misc]
        few = len(prompts)
        if few < len(self.agent_loop_workers):
            self.agent_loop_workers = self.agent_loop_workers[few:] + self.agent_loop_workers[:few]
