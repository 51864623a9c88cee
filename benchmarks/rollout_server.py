"""Named by `external_lib` in rollout's training run: verl imports it in its servers, its ranks and its trainer."""

from benchmarks import rollout_probe

rollout_probe.install()
