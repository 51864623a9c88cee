"""The groups of an update: a prompt has one number, whatever stands around it."""

import pytest
import torch

pytest.importorskip("verl")

from trm_agent.verl_plugin.actor.groups import prompt_digests


def digests(prompts: list[list[int]], dtype: torch.dtype = torch.int64) -> list[int]:
    rows = [torch.tensor(prompt, dtype=dtype) for prompt in prompts]
    found = prompt_digests(torch.nested.as_nested_tensor(rows, layout=torch.jagged))
    assert found.dtype == torch.int64
    return found.tolist()


def test_equal_prompts_have_one_number_and_others_have_another():
    prompts = [[5, 1, 2], [1, 2], [5, 1, 2], [2, 1], [1, 2, 0], [0, 1, 2], [1]]
    found = digests(prompts)
    assert found[0] == found[2]
    assert len(set(found)) == len(prompts) - 1


def test_the_number_is_the_same_in_every_part_of_a_batch_and_of_every_type_of_tokens():
    prompts = [[5, 1, 2], [1, 2], [2, 1, 7, 7]]
    whole = digests(prompts)
    assert [*digests(prompts[2:]), *digests(prompts[:2])] == [whole[2], whole[0], whole[1]]
    assert digests(prompts, torch.int32) == whole
