"""The charts of what an update does: by the sign of the advantage, by depth and version, and effective sample sizes."""

from trm_agent.report.chart_specs import ChartSpec

DIAGNOSTIC_CHARTS = (
    ChartSpec(
        "acceptance_sign",
        "Trust region",
        "Acceptance by the sign of the advantage",
        ((r"trm/acceptance_(positive|negative)", "{0} advantage"),),
        share=True,
    ),
    ChartSpec(
        "kept_tokens",
        "Trust region",
        "Tokens kept, overall and by the sign of the advantage",
        (("trm/kept_tokens", "all tokens"), (r"trm/kept_tokens_(positive|negative)", "{0} advantage")),
        share=True,
        about="Share of the tokens with a gradient of the policy loss.",
    ),
    ChartSpec(
        "kept_depth",
        "Trust region",
        "Tokens kept, by depth",
        ((r"trm/kept_tokens_depth_(\d+)", "from {0} tokens on"),),
        share=True,
        about="Depth: tokens before a token in its context.",
    ),
    ChartSpec(
        "effective",
        "Trust region",
        "Effective sample size of the importance ratios",
        ((r"trm/effective_(tokens|turns|sequences)", "{0}"),),
        share=True,
        about="(sum of w)² / sum of w², as a share: 1 where all weigh the same.",
    ),
    ChartSpec(
        "contribution",
        "Trust region",
        "What has moved already, by the sign of the advantage",
        (
            (r"trm/contribution_(positive|negative)", "{0} advantage"),
            (r"trm/contribution_(positive|negative)_masked", "{0} advantage, kept tokens"),
        ),
        about="-(rho - 1) A a sequence: below 0, the policy has moved where the gradient pushes.",
    ),
    ChartSpec(
        "token_kl_depth",
        "Divergence",
        "Mean token divergence by depth",
        ((r"trm/token_kl_mean_depth_(\d+)", "from {0} tokens on"),),
        unit="nats",
        log=True,
        about="Depth: tokens before a token in its context.",
    ),
    ChartSpec(
        "acceptance_span",
        "Trust region",
        "Acceptance by span of versions",
        ((r"trm/acceptance_span_(\d)", "{0} updates apart"),),
        share=True,
        about="Asynchronous runs: updates between a sequence's oldest and its newest token; 3: three or more.",
    ),
    ChartSpec(
        "sequences_span",
        "Trust region",
        "Span of versions of the sequences",
        ((r"trm/sequences_span_(\d)", "{0} updates apart"),),
        share=True,
        about="Asynchronous runs; 3: three updates or more.",
    ),
    ChartSpec(
        "token_kl_span",
        "Divergence",
        "Mean token divergence by span of versions",
        ((r"trm/token_kl_mean_span_(\d)", "{0} updates apart"),),
        unit="nats",
        log=True,
        about="Asynchronous runs; 3: three updates or more.",
    ),
)
