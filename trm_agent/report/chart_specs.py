"""Which charts a report has: their metrics, groups, titles and axes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChartSpec:
    """A chart over the steps."""

    name: str
    group: str
    title: str
    series: tuple[tuple[str, str], ...]
    """Regular expression of the whole metric's name, and the label, in which {0} is its first group."""
    unit: str = ""
    log: bool = False
    """True if the chart opens with a logarithmic axis."""
    share: bool = False
    """True if the values are shares, drawn from 0 to 1."""
    smooth: bool = False
    """True if the chart opens with its lines smoothed."""
    about: str = ""


CHARTS = (
    ChartSpec(
        "validation",
        "Success",
        "Validation success by horizon",
        ((r"env/val_success/h(\d+)", "horizon {0}"), (r"env/val_success/greedy_h(\d+)", "horizon {0}, greedily")),
        share=True,
        about="Bands: 95 % Wilson interval over tasks.",
    ),
    ChartSpec(
        "training",
        "Success",
        "Success of the training episodes",
        (("env/success", "all horizons"), (r"env/success/h(\d+)", "horizon {0}")),
        share=True,
    ),
    ChartSpec(
        "mistakes",
        "Success",
        "First mistake of an episode",
        ((r"env/task/first_mistake/(?:.+/)?([^/]+)", "{0}"),),
        smooth=True,
        about="Shares of the episodes that the environment ended.",
    ),
    ChartSpec(
        "nll",
        "Success",
        "Mean -log p of the sampled tokens",
        (("env/token_nll", "training"),),
        unit="nats",
        about="Estimates the policy's entropy at the sampling temperature: it falls as the policy becomes surer.",
    ),
    ChartSpec(
        "equal_groups",
        "Success",
        "Groups whose episodes all have one reward",
        (("env/equal_group_frac", "of all groups"),),
        share=True,
        about="They teach nothing: their advantages are 0.",
    ),
    ChartSpec(
        "groups",
        "Success",
        "Groups of a step",
        (
            ("env/groups/drawn", "drawn"),
            ("env/groups/with_signal", "with signal"),
            (r"env/groups/without_signal/(.+)", "without: {0}"),
        ),
        unit="groups",
        about="A filter replaces those without signal; the step trains on the others.",
    ),
    ChartSpec(
        "curriculum",
        "Success",
        "Curriculum: share of each horizon",
        ((r"env/curriculum/share/h(\d+)", "horizon {0}"),),
        share=True,
        about="Of the groups that were played.",
    ),
    ChartSpec(
        "task",
        "Success",
        "What the environment counts",
        ((r"env/task/(?!first_mistake_turn$)([^/]+)", "{0}"),),
        about="Of the episodes that the environment ended.",
    ),
    ChartSpec(
        "length",
        "Episodes",
        "Length of the response, tool results included",
        (("env/response_tokens/mean", "mean"), ("env/response_tokens/max", "longest")),
        unit="tokens",
    ),
    ChartSpec(
        "turns",
        "Episodes",
        "Turns and tool calls",
        (
            ("env/turns/mean", "turns, mean"),
            ("env/turns/max", "turns, most"),
            ("env/tool_calls/mean", "tool calls, mean"),
        ),
    ),
    ChartSpec("stops", "Episodes", "Stop reasons", ((r"env/stop_reason/(.+)", "{0}"),), share=True),
    ChartSpec(
        "shares",
        "Episodes",
        "Malformed and cut turns, the model's share of the tokens",
        (
            ("env/malformed_turn_frac", "malformed turns"),
            ("env/cut_turn_frac", "turns cut by a limit"),
            ("env/model_token_frac", "the model's tokens"),
        ),
        share=True,
        about="A turn may be both.",
    ),
    ChartSpec(
        "failures",
        "Episodes",
        "Infrastructure failures",
        (
            ("env/infrastructure_failures", "training"),
            (r"env/infrastructure_failures/(.+)", "training, {0}"),
            ("env/val_infrastructure_failures", "validation"),
            (r"env/val_infrastructure_failures/(.+)", "validation, {0}"),
        ),
        unit="episodes",
    ),
    ChartSpec(
        "acceptance",
        "Trust region",
        "Acceptance, overall and by length",
        (("trm/acceptance", "all sequences"), (r"trm/acceptance_length_q(\d)", "length quartile {0}")),
        share=True,
        about="Share of the sequences that the mask kept; quartile 4 holds the longest.",
    ),
    ChartSpec(
        "rejected",
        "Trust region",
        "Rejected, by reason",
        ((r"trm/rejected_by_(\w+)", "{0}"), ("trm/nonfinite", "not finite"), ("trm/undecided", "undecided")),
        share=True,
        about="A sequence outside of two criteria counts in both.",
    ),
    ChartSpec(
        "inside_turns",
        "Trust region",
        "Turns inside of the threshold",
        ((r"trm/inside_turns_(\d+)", "from turn {0}"),),
        share=True,
        about="Of the sequences with tokens in those turns: share with none above max_token_kl there.",
    ),
    ChartSpec(
        "acceptance_lag",
        "Trust region",
        "Acceptance by age of the oldest token",
        ((r"trm/acceptance_lag_(\d)", "{0} versions old"),),
        share=True,
        about="Asynchronous runs; 3: three versions or more.",
    ),
    ChartSpec(
        "kept_lag",
        "Trust region",
        "Tokens kept, by their age",
        ((r"trm/kept_tokens_lag_(\d)", "{0} versions old"),),
        share=True,
        about="Asynchronous runs; 3: three versions or more.",
    ),
    ChartSpec(
        "tokens_lag",
        "Trust region",
        "Age of the tokens",
        ((r"trm/tokens_lag_(\d)", "{0} versions old"),),
        share=True,
        about="Asynchronous runs: share of the tokens; 3: three versions or more.",
    ),
    ChartSpec(
        "threshold",
        "Trust region",
        "Adaptive threshold",
        (
            ("trm/max_token_kl", "in use"),
            ("trm/target_threshold", "for the target acceptance"),
            ("trm/avg_token_kl", "of the average, in use"),
            ("trm/target_threshold_avg", "of the average, for the target"),
        ),
        unit="nats",
        log=True,
    ),
    ChartSpec(
        "token_kl",
        "Divergence",
        "Token divergence",
        (
            ("trm/token_kl_mean", "mean"),
            ("trm/token_kl_mean_k3", "mean, sampled k3"),
            ("trm/token_kl_max", "largest"),
            ("trm/token_kl_k2_max", "largest, sampled k2"),
        ),
        unit="nats",
        log=True,
    ),
    ChartSpec(
        "token_kl_lag",
        "Divergence",
        "Mean token divergence by age",
        ((r"trm/token_kl_mean_lag_(\d)", "{0} versions old"),),
        unit="nats",
        log=True,
        about="Asynchronous runs; 3: three versions or more.",
    ),
    ChartSpec(
        "quantiles",
        "Divergence",
        "Largest divergence of a sequence, quantiles",
        ((r"trm/seq_max_kl_p(\d+)", "{0} %"),),
        unit="nats",
        log=True,
    ),
    ChartSpec("ppl_gap", "Divergence", "Perplexity gap", (("trm/ppl_gap", "gap"),), log=True),
    ChartSpec(
        "ratio",
        "Divergence",
        "Extreme importance ratios",
        (("trm/ratio_max", "largest"), ("trm/ratio_min", "smallest")),
        log=True,
    ),
    ChartSpec(
        "position",
        "Divergence",
        "Where the largest divergence sits",
        (("trm/max_kl_position", "0 start, 1 end"),),
        share=True,
    ),
    ChartSpec(
        "bounds",
        "Bounds",
        "Error bounds",
        ((r"trm/bound_(\w+)(?<!_low)(?<!_high)", "{0}"),),
        log=True,
        about="With the sampled contexts' divergences; above 1 a bound says nothing. Bands: 90 % bootstrap interval "
        "over prompts.",
    ),
    ChartSpec(
        "horizon",
        "Bounds",
        "Effective horizon and longest sequence",
        (("trm/effective_horizon", "effective horizon"), ("trm/horizon", "longest sequence, the model's tokens")),
        unit="tokens",
        log=True,
    ),
    ChartSpec(
        "gain",
        "Bounds",
        "Surrogate gain and margin",
        (
            ("trm/surrogate_gain", "gain"),
            ("trm/surrogate_gain_masked", "gain, kept tokens"),
            ("trm/surrogate_gain_stop", "gain, tokens before the first context outside"),
            ("trm/margin", "margin"),
        ),
    ),
    ChartSpec("timings", "Time", "Time of a step, by phase", ((r"timing_s/(\w+)", "{0}"),), unit="s", log=True),
    ChartSpec(
        "idle",
        "Time",
        "Share of a step in which each waits",
        (
            ("run/trainer_idle", "trainer, for episodes"),
            ("run/servers_idle", "rollout servers, for turns"),
            ("run/queue_idle", "queue, for a task that is done"),
        ),
        share=True,
    ),
    ChartSpec(
        "turns_at_once",
        "Time",
        "Turns that a busy server samples at a time",
        (("run/turns_at_once", "turns"),),
        unit="turns",
    ),
    ChartSpec(
        "speed", "Time", "The model's tokens per second", (("run/tokens_per_s", "tokens per second"),), unit="1/s"
    ),
    ChartSpec("loss", "Optimiser", "Gradient norm", (("actor/grad_norm", "norm"),), log=True),
    ChartSpec("lr", "Optimiser", "Learning rate", (("actor/lr", "rate"),)),
)
