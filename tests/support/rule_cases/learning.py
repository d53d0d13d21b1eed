"""Whether the run can learn: value function, entropy, signal in the rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.support.promtool import CRITICAL, INFO, WARNING, Case, every

__all__ = ["LEARNING"]

VARIANCE, ENTROPY, STEPS = "rl_explained_variance", "rl_entropy", "training_steps_total"
VALUE_LOSS = "rl_value_loss"
LATE = {STEPS: "99+0x400"}
RARE = [None] * 119


def variance_band(value: str, severity: str, steps: int = 99) -> Case:
    """An explained variance that stays at a value, after so many logged steps."""
    series = {VARIANCE: [value] * 60, STEPS: [steps] * 60}
    return Case(f"{value} after {steps} steps is {severity or 'silent'}", series, dict.fromkeys((0, 60, 295), severity))


def level(bad: str, severity: str, good: str, metric: str) -> list[Case]:
    """A metric that stays at a bad value, and at a good one."""
    return [
        Case(f"{bad} stays", {metric: f"{bad}+0x200"}, {60: severity, 900: severity}),
        Case(f"{good} is healthy", {metric: f"{good}+0x200"}, {60: "", 900: ""}),
        Case("one such update among good ones is normal", {metric: [good] * 60 + [bad] + [good] * 60},
             {300: "", 330: "", 600: ""}),
        Case("with an update every ten minutes most of an hour decide",
             {metric: [good] * 4 + [bad] + [good] * 2 + [bad] * 8}, {2400: "", 4200: "", 8400: severity}, 600),
    ]  # fmt: skip


LEARNING: Mapping[str, Sequence[Case]] = {
    "ExplainedVarianceLow": [
        *(
            variance_band(*band)
            for band in (
                ("0.5", ""),
                ("0.4999", WARNING),
                ("0", WARNING),
                ("-0.0001", CRITICAL),
                ("-30", CRITICAL),
                ("0.9", ""),
                ("NaN", ""),
            )
        ),
        variance_band("-30", "", 49),
        variance_band("0.1", "", 1),
        Case(
            "the warm-up ends with the fiftieth step",
            {VARIANCE: "0.1+0x60", STEPS: [*range(1, 61)]},
            {47 * 600: "", 48 * 600: "", 49 * 600: WARNING, 59 * 600: WARNING},
            600,
        ),
        Case(
            "where steps are frequent, it ends a minute later",
            {VARIANCE: "0.1+0x120", STEPS: [*range(1, 121)]},
            {50: "", 100: "", 115: WARNING},
            1,
        ),
        Case(
            "a value function that has learned within the warm-up is healthy",
            {VARIANCE: [0.1] * 45 + [0.9] * 75, STEPS: [*range(1, 121)]},
            dict.fromkeys(range(0, 115, 5), ""),
            1,
        ),
        Case(
            "it does not begin again while no step is made",
            {VARIANCE: "0.1+0x300", STEPS: [*range(80), *[None] * 170]},
            {0: "", 245: "", 345: WARNING, 700: WARNING, 1100: WARNING},
        ),
        Case("without a count of steps the warm-up does not end", {VARIANCE: "0.1+0x60"}, {60: "", 295: ""}),
        Case(
            "NaN, which constant returns give, does not fire among good values",
            {VARIANCE: [0.9, "NaN", 0.8, "NaN", "NaN"] * 40, **LATE},
            {120: "", 300: "", 900: ""},
        ),
        Case(
            "nor does it hide bad ones",
            {VARIANCE: [0.1, "NaN", 0.2, "NaN", "NaN"] * 40, **LATE},
            {120: WARNING, 300: WARNING, 900: WARNING},
        ),
        Case("one bad batch among good ones", {VARIANCE: [0.9] * 20 + [-5] + [0.9] * 40, **LATE}, {100: "", 130: ""}),
        Case(
            "where the value loss has fallen to less than a thirtieth, all returns are the same",
            {VARIANCE: [0.8] * 20 + [-5] * 180, VALUE_LOSS: [10] * 20 + [0.29] * 180, **LATE},
            {60: "", 95: "", 150: "", 990: ""},
        ),
        Case(
            "a value loss that has fallen less",
            {VARIANCE: [0.8] * 20 + [-5] * 180, VALUE_LOSS: [10] * 20 + [0.31] * 180, **LATE},
            {60: "", 150: CRITICAL, 990: CRITICAL},
        ),
        Case(
            "as a task is solved both fall bit by bit",
            {
                VARIANCE: [max(0.9 - 0.02 * max(n - 20, 0), -5) for n in range(400)],
                VALUE_LOSS: [50 * 0.9**n + 1e-5 for n in range(400)],
                STEPS: [99 + n for n in range(400)],
            },
            dict.fromkeys(range(0, 5900, 60), ""),
            15,
        ),
        Case(
            "an early spike of the value loss excuses no value function that never explained anything",
            {VARIANCE: "-0.5+0x200", VALUE_LOSS: [1000] * 10 + [20] * 190, STEPS: "99+4x200"},
            {540: CRITICAL, **dict.fromkeys(range(660, 11_900, 300), CRITICAL)},
            60,
        ),
        Case(
            "one that rises",
            {VARIANCE: "0.001+0x200", VALUE_LOSS: "1+1x200", **LATE},
            {60: WARNING, 150: WARNING, 990: WARNING},
        ),
        Case(
            "a run that ended",
            {VARIANCE: "0.1+0x60", **LATE, 'run_status{run_id="r", status="running"}': "0+0x60"},
            {60: "", 295: ""},
        ),
    ],
    "ExplainedVarianceDip": [
        Case(
            "one bad batch among good ones",
            {VARIANCE: [0.9] * 20 + [-5] + [0.9] * 40, **LATE},
            {95: "", 100: INFO, 150: INFO, 165: ""},
        ),
        Case("0 is not below", {VARIANCE: [0.9] * 20 + [0] + [0.9] * 40, **LATE}, {100: "", 150: ""}),
        Case(
            "before the warm-up is over",
            {VARIANCE: [0.9] * 20 + [-5] + [0.9] * 40, STEPS: "9+0x90"},
            {100: "", 150: ""},
        ),
        Case("what stays bad is no dip", {VARIANCE: "-5+0x60", **LATE}, {60: "", 295: ""}),
        Case(
            "a bad batch of the warm-up is none when that has just ended",
            {VARIANCE: [0.9] * 45 + [-5] + [0.9] * 80, STEPS: [*range(1, 127)]},
            dict.fromkeys(range(0, 125, 5), ""),
            1,
        ),
    ],
    "EntropyCollapse": [
        Case("80 % lost within minutes", {ENTROPY: [0.69] * 120 + [0.13] * 60}, {595: "", 655: WARNING, 895: WARNING}),
        Case("90 % lost", {ENTROPY: [0.69] * 120 + [0.05] * 60}, {595: "", 655: CRITICAL, 895: CRITICAL}),
        Case("three quarters are not yet 80 %", {ENTROPY: [0.69] * 120 + [0.17] * 60}, {660: "", 895: ""}),
        Case(
            "it does not end because the baseline follows",
            {ENTROPY: [0.69] * 40 + [0.05] * 200},
            {660: CRITICAL, 1500: CRITICAL, 3500: CRITICAL},
            15,
        ),
        Case(
            "it ends when the entropy is back",
            {ENTROPY: [0.69] * 40 + [0.05] * 60 + [0.6] * 60},
            {1485: CRITICAL, 1560: "", 2000: ""},
            15,
        ),
        Case(
            "a slow decay to nearly nothing is how training ends",
            {ENTROPY: [0.69 * 0.5 ** (n / 60) for n in range(300)]},
            dict.fromkeys(range(60, 4400, 300), ""),
            20,
        ),
        Case(
            "a run that collapses in its first seconds is compared with them",
            {ENTROPY: [0.69, 0.3, *[0.02] * 60]},
            {15: "", 75: CRITICAL, 300: CRITICAL},
        ),
        Case(
            "differential entropy may be negative and fall slowly",
            {ENTROPY: [-2 - 0.001 * n for n in range(400)]},
            {300: "", 1000: "", 1995: ""},
        ),
        Case("and collapse", {ENTROPY: [-2] * 120 + [-3.7] * 60}, {595: "", 655: WARNING, 895: WARNING}),
        Case(
            "near zero half a nat up and down is nothing",
            {ENTROPY: [0.1, -0.2] * 60 + [-0.4] * 60},
            {590: "", 660: "", 895: ""},
        ),
        Case(
            "from above zero to far below it",
            {ENTROPY: [1.4] * 120 + [-0.9] * 60},
            {595: "", 655: CRITICAL, 895: CRITICAL},
        ),
        Case(
            "one deterministic batch among others", {ENTROPY: [0.69] * 120 + [0.01] + [0.69] * 60}, {600: "", 655: ""}
        ),
        Case("what takes longer than ten minutes", {ENTROPY: [0.69] * 60 + [0.1] * 60}, {3660: "", 6600: ""}, 60),
        Case(
            "a resumed run begins where its checkpoint stood",
            {ENTROPY: [0.1] * 60 + [0.69] * 60 + [0.1] * 60, "run_attempts": "1+0x119 2+0x100"},
            {660: "", 895: ""},
        ),
    ],
    "EntropyDropped": [
        Case(
            "with an update every two minutes",
            {ENTROPY: [0.8] * 80 + [0.1] * 60},
            {9480: "", 10_200: WARNING, 13_000: WARNING},
            120,
        ),
        Case(
            "with an update every ten minutes",
            {ENTROPY: every(10, [2.0, 2.1] * 10 + [0.5] * 20)},
            {11_940: "", 13_800: WARNING, 16_200: WARNING, 18_000: WARNING},
            60,
        ),
        Case(
            "to a twentieth at that pace",
            {ENTROPY: every(10, [2.0] * 20 + [0.05] * 20)},
            {11_940: "", 13_800: CRITICAL, 16_200: CRITICAL, 18_000: CRITICAL},
            60,
        ),
        Case(
            "what falls evenly at that pace is no drop",
            {ENTROPY: [max(1.4 - 0.012 * n, 0.02) for n in range(140)]},
            dict.fromkeys(range(600, 80_000, 1800), ""),
            600,
        ),
        Case(
            "one deterministic batch at that pace",
            {ENTROPY: [2.0] * 20 + [0.05] + [2.0] * 20},
            dict.fromkeys(range(11_400, 20_000, 600), ""),
            600,
        ),
        Case(
            "what falls in a straight line is no drop, however far",
            {ENTROPY: [max(1.4 - 0.012 * n, 0.02) for n in range(200)]},
            dict.fromkeys(range(600, 23_000, 600), ""),
            120,
        ),
        Case(
            "nor is differential entropy that falls through zero",
            {ENTROPY: [1.4 - 0.025 * n for n in range(160)]},
            dict.fromkeys(range(600, 19_000, 600), ""),
            120,
        ),
        Case("half of it", {ENTROPY: [0.8] * 80 + [0.4] * 60}, {10_200: "", 13_000: ""}, 120),
        Case(
            "a few deterministic batches", {ENTROPY: [0.8] * 80 + [0.05] * 2 + [0.8] * 20}, {9840: "", 10_200: ""}, 120
        ),
    ],
    "EntropyExplosion": [
        Case("more than doubled", {ENTROPY: [0.5] * 120 + [1.4] * 60}, {595: "", 655: WARNING, 895: WARNING}),
        Case(
            "it does not end because the baseline follows",
            {ENTROPY: [0.5] * 120 + [1.4] * 500},
            {655: WARNING, 1500: WARNING, 3000: WARNING},
        ),
        Case(
            "with an update every ten minutes",
            {ENTROPY: [2.0, 2.1] * 10 + [9] * 20},
            {11_400: "", 13_800: WARNING, 15_600: WARNING},
            600,
        ),
        Case("not yet doubled at that pace", {ENTROPY: [2.0] * 20 + [3.9] * 20}, {13_800: "", 15_600: ""}, 600),
        Case("not yet doubled", {ENTROPY: [1] * 120 + [1.9] * 60}, {660: "", 895: ""}),
        Case("a policy that leaves a collapse", {ENTROPY: [0.01] * 120 + [0.78] * 60}, {660: "", 895: ""}),
        Case("differential entropy up by more than its level", {ENTROPY: [-2] * 120 + [0.5] * 60}, {655: WARNING}),
        Case("one babbling batch", {ENTROPY: [0.3] * 120 + [3] + [0.3] * 60}, {600: "", 655: ""}),
        Case(
            "what rises in a straight line",
            {ENTROPY: [0.1 + 0.002 * n for n in range(400)]},
            dict.fromkeys(range(600, 1990, 60), ""),
        ),
    ],
    "DeadAdvantages": [
        *level("0.95", WARNING, "0.2", "rl_reward_zero_std_ratio"),
        Case("nine of ten groups are not above", {"rl_reward_zero_std_ratio": "0.9+0x60"}, {60: "", 295: ""}),
    ],
    "ZeroRewardVariance": level("0", WARNING, "0.1", "rl_reward_std"),
    "ZeroAdvantageVariance": level("0", WARNING, "0.1", "rl_advantage_std"),
    "ResponsesTruncated": [
        Case("more than half", {"rl_response_truncated_ratio": "0.51+0x60"}, {60: WARNING, 295: WARNING}),
        Case("all of them", {"rl_response_truncated_ratio": "1+0x60"}, {60: CRITICAL, 295: CRITICAL}),
        Case("half is not above", {"rl_response_truncated_ratio": "0.5+0x60"}, {60: "", 295: ""}),
        Case("one long batch", {"rl_response_truncated_ratio": [0.1] * 20 + [1] + [0.1] * 40}, {100: "", 130: ""}),
        Case(
            "also with an update every ten minutes",
            {"rl_response_truncated_ratio": [1, *RARE, 1, *RARE]},
            {0: CRITICAL, 900: CRITICAL},
        ),
    ],
}
