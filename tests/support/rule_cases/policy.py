"""The policy update: KL, clip fraction, and the mismatch of trainer and inference engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.support.promtool import CRITICAL, INFO, WARNING, Case, every

__all__ = ["POLICY"]

KL, REFERENCE, INFERENCE = (f'rl_kl_divergence{{kind="{kind}"}}' for kind in ("update", "reference", "inference"))
CLIP, ERROR, REWARD = "rl_clip_fraction", "rl_inference_probability_error", "rl_reward_mean"
RARE = [None] * 119
"""Nothing for ten minutes, at an update every five seconds."""


def kl_band(value: str, severity: str) -> Case:
    """A KL that stays at a value."""
    return Case(f"{value} is {severity or 'healthy'}", {KL: [value] * 60}, {0: severity, 60: severity, 295: severity})


POLICY: Mapping[str, Sequence[Case]] = {
    "KLDivergenceHigh": [
        *(
            kl_band(*band)
            for band in (
                ("0", ""),
                ("0.049", ""),
                ("0.05", ""),
                ("0.0501", WARNING),
                ("0.1", WARNING),
                ("0.1001", CRITICAL),
                ("-0.04", ""),
                ("-0.07", WARNING),
                ("-0.2", CRITICAL),
                ("NaN", ""),
            )
        ),
        Case("the reference is watched as well", {REFERENCE: "0.2+0x60"}, {60: CRITICAL}),
        Case(
            "neither the inference engine nor padding is",
            {INFERENCE: "5+0x60", 'rl_kl_divergence{kind="update_padded"}': "27+0x60"},
            {60: "", 295: ""},
        ),
        Case(
            "one bad update among good ones is no level",
            {KL: [0.01] * 20 + [3] + [0.01] * 40},
            dict.fromkeys(range(0, 300, 5), ""),
        ),
        Case(
            "most of a minute's updates decide",
            {KL: [0.01] * 20 + [0.2] * 20 + [0.01] * 30},
            {95: "", 105: "", 160: CRITICAL, 195: CRITICAL, 260: "", 300: ""},
        ),
        Case(
            "with an update every ten minutes one is enough, until a good one comes",
            {KL: [0.2, *RARE, 0.2, *RARE, 0.01, *RARE]},
            {0: CRITICAL, 595: CRITICAL, 1195: CRITICAL, 1200: ""},
        ),
        Case(
            "with an update a minute two of three decide",
            {KL: [0.01] * 10 + [0.2] + [0.01] * 10 + [0.2] * 5},
            {600: "", 660: "", 1260: "", 1500: CRITICAL},
            60,
        ),
        Case(
            "a bad update just before a pause is still one among many",
            {KL: [0.01] * 100 + [0.5] + [None] * 150},
            {500: "", 530: "", 560: "", 600: "", 790: "", 1000: ""},
        ),
        Case(
            "an hour after the last update nothing is known",
            {KL: [0.2]},
            {895: CRITICAL, 905: CRITICAL, 3595: CRITICAL, 3605: ""},
        ),
        Case(
            "where updates are frequent a quarter of an hour after the last one",
            {KL: [0.2] * 60},
            {295: CRITICAL, 1190: CRITICAL, 1200: "", 3000: ""},
        ),
        Case(
            "with an update every twenty minutes it does not come and go",
            {KL: every(20, [0.3] * 6 + [0.01])},
            {**dict.fromkeys(range(0, 7200, 180), CRITICAL), 7200: "", 8340: ""},
            60,
        ),
        Case(
            "five minutes after a restart rare updates of the new attempt count",
            {KL: every(2, [0.01] * 30 + [0.5] * 30), "run_attempts": "1+0x59 2+0x100"},
            {3600: "", 3780: "", **dict.fromkeys(range(3960, 7200, 60), CRITICAL)},
            60,
        ),
        Case(
            "a run that ended",
            {KL: "0.2+0x100", 'run_status{run_id="r", status="running"}': "1+0x19 0+0x80"},
            {95: CRITICAL, 100: "", 300: ""},
        ),
        Case("a run of unknown status", {KL: "0.2+0x100"}, {60: "", 300: ""}, is_running=False),
        Case(
            "after a restart the last attempt's updates do not count",
            {KL: [0.2] * 60 + [None] * 30 + [0.01] * 60, "run_attempts": "1+0x75 2+0x100"},
            {295: CRITICAL, 390: "", 445: "", 500: "", 700: ""},
        ),
        Case(
            "after a restart the new attempt's own updates do",
            {KL: "0.2+0x200", "run_attempts": "1+0x75 2+0x100"},
            {370: CRITICAL, 400: CRITICAL, 700: CRITICAL},
        ),
    ],
    "KLDivergenceSpike": [
        Case(
            "one bad update among good ones is told for a minute",
            {KL: [0.01] * 20 + [0.3] + [0.01] * 40},
            {95: "", 100: INFO, 155: INFO, 165: ""},
        ),
        Case("of either sign", {KL: [0.01] * 20 + [-0.3] + [0.01] * 40}, {95: "", 100: INFO, 155: INFO, 165: ""}),
        Case("0.05 is healthy", {KL: [0.01] * 20 + [0.05] + [0.01] * 40}, {100: "", 130: ""}),
        Case("what stays bad is no spike", {KL: "0.3+0x60"}, {60: "", 120: "", 295: ""}),
        Case(
            "with an update a minute it is told for five",
            {KL: [0.01] * 10 + [0.3] + [0.01] * 20},
            {540: "", 600: INFO, 840: INFO, 960: ""},
            60,
        ),
        Case(
            "a run that ended",
            {KL: [0.01] * 20 + [0.3] + [0.01] * 40, 'run_status{run_id="r", status="running"}': "0+0x100"},
            {100: "", 120: ""},
        ),
    ],
    "TrainInferenceMismatch": [
        Case("above 0.1", {INFERENCE: "0.11+0x60"}, {0: WARNING, 60: WARNING, 295: WARNING}),
        Case("with an update every ten minutes", {INFERENCE: "0.11+0x20"}, {0: WARNING, 6000: WARNING}, 600),
        Case("0.1 is not above", {INFERENCE: "0.1+0x60"}, {60: "", 295: ""}),
        Case("other kinds have other rules", {KL: "0.5+0x60", REFERENCE: "0.5+0x60"}, {60: "", 295: ""}),
    ],
    "TrainInferenceMismatchGrowing": [
        Case(
            "more than three times the level before, as long as it stays there",
            {INFERENCE: [0.002] * 200 + [0.009] * 400},
            {995: "", 1055: WARNING, 1500: WARNING, 2900: WARNING},
        ),
        Case(
            "and no longer",
            {INFERENCE: [0.002] * 200 + [0.009] * 100 + [0.002] * 100},
            {1055: WARNING, 1495: WARNING, 1560: "", 1900: ""},
        ),
        Case(
            "with an update every ten minutes",
            {INFERENCE: [0.002] * 50 + [0.009] * 30},
            {29_400: "", 31_800: WARNING, 34_800: WARNING},
            600,
        ),
        Case(
            "twice at that pace",
            {INFERENCE: [0.002] * 50 + [0.004] * 30},
            dict.fromkeys(range(29_400, 48_000, 1800), ""),
            600,
        ),
        Case("twice is not yet three times", {INFERENCE: [0.002] * 200 + [0.004] * 200}, {1060: "", 1500: ""}),
        Case("what is far below 0.001 may vary", {INFERENCE: [0.0001] * 200 + [0.0009] * 200}, {1060: "", 1500: ""}),
        Case("a run that has only begun is not compared", {INFERENCE: [0.002] * 20 + [0.009] * 40}, {160: "", 295: ""}),
    ],
    "TrainInferenceProbabilityError": [
        Case("1.02 is worth a look above, 1.05 a warning", {ERROR: "1.0201+0x60"}, {60: INFO}),
        Case("1.05 is still a look", {ERROR: "1.05+0x60"}, {60: INFO}),
        Case("above it is a warning", {ERROR: "1.051+0x60"}, {60: WARNING}),
        Case("with an update every ten minutes", {ERROR: "1.051+0x20"}, {0: WARNING, 6000: WARNING}, 600),
        Case("1.02 is healthy", {ERROR: "1.02+0x60"}, {60: "", 295: ""}),
    ],
    "ReferenceKLRising": [
        Case(
            "KL rises, reward does not",
            {REFERENCE: [0.01] * 150 + [0.02] * 60, REWARD: [5] * 210},
            {8940: "", 10_740: INFO, 11_400: INFO},
            60,
        ),
        Case(
            "KL rises, reward falls below zero",
            {REFERENCE: [0.01] * 150 + [0.02] * 60, REWARD: [5] * 150 + [-5] * 60},
            {11_400: INFO},
            60,
        ),
        Case(
            "with an update every ten minutes",
            {REFERENCE: [0.01] * 40 + [0.02] * 20, REWARD: [5] * 60},
            {23_400: "", 25_200: INFO},
            600,
        ),
        Case(
            "KL rises with the reward, as it should",
            {REFERENCE: [0.01] * 150 + [0.02] * 60, REWARD: [5] * 150 + [6] * 60},
            {10_800: "", 12_540: ""},
            60,
        ),
        Case("a KL that stays", {REFERENCE: [0.02] * 210, REWARD: [5] * 210}, {10_800: "", 12_540: ""}, 60),
        Case(
            "without a reward nothing is known", {REFERENCE: [0.01] * 150 + [0.02] * 60}, {10_800: "", 12_540: ""}, 60
        ),
    ],
    "ClipFractionHigh": [
        Case("above one half", {CLIP: "0.5001+0x60"}, {0: WARNING, 60: WARNING, 295: WARNING}),
        Case("with an update every ten minutes", {CLIP: "0.6+0x20"}, {0: WARNING, 6000: WARNING}, 600),
        Case("one half is not above", {CLIP: "0.5+0x60"}, {60: "", 295: ""}),
        Case("0.3 to 0.5 is not told", {CLIP: "0.4+0x60"}, {60: "", 295: ""}),
        Case("NaN is no share", {CLIP: ["NaN"] * 60}, {60: "", 295: ""}),
        Case("one bad update among good ones", {CLIP: [0.2] * 20 + [0.9] + [0.2] * 40}, {100: "", 120: "", 150: ""}),
    ],
    "ClipFractionSpike": [
        Case(
            "one bad update among good ones",
            {CLIP: [0.2] * 20 + [0.9] + [0.2] * 40},
            {95: "", 100: INFO, 150: INFO, 165: ""},
        ),
        Case("one half is not bad", {CLIP: [0.2] * 20 + [0.5] + [0.2] * 40}, {100: "", 150: ""}),
        Case("what stays bad is no spike", {CLIP: "0.9+0x60"}, {60: "", 295: ""}),
    ],
    "ClipFractionLow": [
        Case("below one tenth", {CLIP: "0.0999+0x60"}, {60: INFO, 295: INFO}),
        Case("one tenth is not below", {CLIP: "0.1+0x60"}, {60: "", 295: ""}),
        Case("where nothing is ever clipped each batch has one update", {CLIP: "0+0x60"}, {60: "", 295: ""}),
        Case(
            "now and then a clipped sample is enough to know better",
            {CLIP: [0, 0, 0, 0.01] * 20},
            {60: INFO, 295: INFO},
        ),
        Case(
            "also with an update every ten minutes", {CLIP: [0.02, *RARE, 0.02, *RARE]}, {0: INFO, 595: INFO, 900: INFO}
        ),
    ],
}
