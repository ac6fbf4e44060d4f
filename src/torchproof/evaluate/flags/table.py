"""The table of flags. Adding one is one row here, and one in docs/red-flags.md."""

from __future__ import annotations

from torchproof.evaluate.flags import effort, gradients, outputs, record_keeping, size, wins
from torchproof.evaluate.flags.flag import Rule

RULES: tuple[Rule, ...] = (
    Rule(
        "probabilities",
        "The model returns probabilities, not logits.",
        "evaluate the network without its last softmax: gradients vanish where it saturates",
        outputs.probabilities,
        masking=True,
    ),
    Rule(
        "random",
        "The model answers differently when asked twice.",
        "attack the expectation (suite `rand`, or EOT), or switch the randomness off in eval mode; "
        "results of a random model depend on batch size and cannot be resumed exactly",
        outputs.random,
    ),
    Rule(
        "saturated-softmax",
        "Logits are so large that the gradient of cross-entropy underflows to zero.",
        "divide the logits by a constant, which changes no decision, or attack the margin or DLR",
        outputs.saturated,
    ),
    Rule(
        "unstable-predictions",
        "The margin jumps between points next to each other: gradients say little about the "
        "surroundings.",
        "use gradients averaged over noise (NES, EOT), and trust attacks without gradients more",
        outputs.unstable,
    ),
    Rule(
        "zero-gradients",
        "The gradient of the margin is exactly zero at clean images.",
        "gradient-based attacks are blind there: replace what cuts the gradient by BPDA, and trust "
        "Square or a transfer attack more",
        gradients.zero,
        masking=True,
    ),
    Rule(
        "undefined-gradients",
        "A gradient, or an answer to a probe, is NaN or infinite.",
        "look for square roots, logarithms and divisions of 0 in the forward pass, and give them "
        "a floor; until then the attacks are partly blind there",
        gradients.undefined,
    ),
    Rule(
        "misleading-gradients",
        "A step along the gradient does no more than a random step.",
        "gradients are masked: look for ripples, rounding and other things that hide the slope, "
        "and attack a smooth substitute (BPDA)",
        gradients.misleading,
        masking=True,
    ),
    Rule(
        "gradient-free-wins",
        "Attacks without gradients broke what those with gradients had left.",
        "gradients may be masked: look for rounding, saturation and randomness in the model, and "
        "attack a smooth substitute (BPDA)",
        wins.gradient_free,
        masking=True,
    ),
    Rule(
        "noise-wins",
        "Random noise breaks examples that the suite left standing.",
        "the attacks fail to find what lies at hand: check their objective and their gradients, "
        "and run the suite `standard`",
        wins.noise,
        masking=True,
    ),
    Rule(
        "single-step-wins",
        "A single step breaks examples that the suite left standing.",
        "the attacks of the suite are set up wrongly or gradients are masked: check step sizes and "
        "objective, and run the suite `standard`",
        wins.single_step,
        masking=True,
    ),
    Rule(
        "unbounded-attack-fails",
        "An attack with gradients fails even where every image is allowed.",
        "no model can be robust there, so the gradients are of no use: replace what hides them by "
        "BPDA, or attack without gradients",
        wins.unbounded,
        masking=True,
    ),
    Rule(
        "more-steps-help",
        "An attack of the suite wins with twice the steps and a new start.",
        "run more steps and restarts until nothing changes, or the suite `standard`",
        effort.more_steps,
    ),
    Rule(
        "incomplete-optimisation",
        "An attack of the suite still makes progress when it stops.",
        "take longer steps (2.5 radii over the whole run is usual) or more of them, or use APGD",
        effort.incomplete,
    ),
    Rule(
        "silent-success",
        "An attack passes over an adversarial image and reports failure.",
        "return the worst point of the whole run, not the last one",
        effort.silent,
    ),
    Rule(
        "all-rejected",
        "Attacked images lose their class, but never in a way that counts: all are rejected.",
        "the attack does not try to be accepted: put the rejection into the objective, or match "
        "the features of accepted images",
        effort.rejected,
    ),
    Rule(
        "recheck-failed",
        "An attack reports an image that does not hold when it is read back.",
        "evaluate in float32 or float64 outside autocast, and look for randomness in the model",
        record_keeping.recheck_failed,
    ),
    Rule(
        "float-noise",
        "Decisions rest on margins within float noise.",
        "evaluate in float64 to settle them",
        record_keeping.float_noise,
    ),
    Rule(
        "few-examples",
        "So few examples that the interval of robust accuracy leaves nearly everything open.",
        "evaluate more examples: 100 for an interval of about 20 points, 1,000 for 6",
        size.few_examples,
    ),
    Rule(
        "small-budget",
        "The suite is weaker than a first look: fewer evaluations than PGD-20, or no gradients.",
        "run the suite `quick` at least; claims need `thorough` or `standard`",
        size.small_budget,
    ),
    Rule(
        "certificate-refuted",
        "An attack broke an example that the verifier had certified.",
        "the verifier is unsound, or model and threat are not those it was asked about: believe "
        "none of its certificates until that is found",
        wins.refuted,
    ),
    Rule(
        "unfinished",
        "An attack of the suite has not been at every example.",
        "evaluate again with resume=True and more max_seconds",
        record_keeping.unfinished,
    ),
    Rule(
        "unprobed",
        "The time was up before the questions behind these flags were asked.",
        "evaluate again with resume=True and more max_seconds",
        record_keeping.unprobed,
    ),
)

# Flags that say that gradients are no guide: what attacks with gradients left may not be robust.
MASKING = frozenset(rule.name for rule in RULES if rule.masking)
