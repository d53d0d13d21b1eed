"""Losses and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tests.support.promtool import CRITICAL, INFO, WARNING, Case, every

__all__ = ["TRAINING"]

LOSS, NORM, VALIDATION = "training_loss", "training_grad_norm", "validation_loss"
NAN = 'training_nonfinite_total{metric="training_loss"}'


def noisy(level: float, spread: float, count: int) -> list[float]:
    """Values around a level whose standard deviation is the spread, the same each time."""
    return [level + spread * math.sqrt(2) * math.sin(2.4 * number) for number in range(count)]


TRAINING: Mapping[str, Sequence[Case]] = {
    "TrainingNonFinite": [
        Case(
            "the first NaN fires at once and goes on for an hour",
            {NAN: [0] * 60 + [1] * 800, LOSS: [0.5] * 60 + ["NaN"] * 800},
            {295: "", 300: CRITICAL, 3890: CRITICAL, 3910: ""},
        ),
        Case(
            "with a NaN every ten minutes it goes on",
            {NAN: [0, 0, *range(1, 20)]},
            {600: "", 1200: CRITICAL, 6000: CRITICAL, 12_000: CRITICAL},
            600,
        ),
        Case(
            "every twenty minutes as well",
            {NAN: every(20, [0, 0, *range(1, 10)])},
            {1200: "", **dict.fromkeys(range(2400, 12_000, 240), CRITICAL)},
            60,
        ),
        Case("a count that stands still is the past's", {NAN: "5+0x100"}, {0: "", 300: ""}),
        Case(
            "explained variance may be NaN",
            {'training_nonfinite_total{metric="rl_explained_variance"}': "0+1x100"},
            {300: ""},
        ),
        Case(
            "a resumed run is not accused of what the attempt before did, but of its own",
            {NAN: [0] * 10 + [3] * 90 + [4] * 50, "run_attempts": "1+0x20 2+0x150"},
            {60: CRITICAL, 360: "", 495: "", 500: CRITICAL},
        ),
        Case(
            "a run that ended is not accused",
            {NAN: "0+1x100", 'run_status{run_id="r", status="running"}': "0+0x100"},
            {300: ""},
        ),
    ],
    "LossSpike": [
        Case(
            "one loss far above the noise is told for a minute",
            {LOSS: [*noisy(2, 0.1, 200), 2.7, *noisy(2, 0.1, 40)]},
            {995: "", 1000: INFO, 1055: INFO, 1065: ""},
        ),
        Case(
            "five standard deviations are none",
            {LOSS: [*noisy(2, 0.1, 200), 2.5, *noisy(2, 0.1, 40)]},
            {1000: "", 1030: ""},
        ),
        Case(
            "twenty updates are needed to know what is usual",
            {LOSS: [*noisy(2, 0.1, 15), 9, *noisy(2, 0.1, 20)]},
            {75: "", 130: ""},
        ),
        Case(
            "with an update every ten minutes it is told for most of an hour",
            {LOSS: [*noisy(2, 0.1, 40), 2.7, *noisy(2, 0.1, 20)]},
            {23_400: "", 24_000: INFO, 25_800: INFO, 27_000: ""},
            600,
        ),
        Case(
            "five standard deviations are none at that pace, either",
            {LOSS: [*noisy(2, 0.1, 40), 2.5, *noisy(2, 0.1, 20)]},
            {24_000: "", 25_800: ""},
            600,
        ),
        Case(
            "in RL the loss is no quality",
            {LOSS: [*noisy(2, 0.1, 200), 2.7, *noisy(2, 0.1, 40)], "rl_policy_loss": "0+0x250"},
            {1000: "", 1030: ""},
        ),
    ],
    "LossDivergence": [
        Case(
            "a loss that stays far above the hour before",
            {LOSS: noisy(2, 0.1, 300) + [3.2] * 60},
            {8970: "", 9210: WARNING, 10_700: WARNING},
            30,
        ),
        Case(
            "with an update every ten minutes",
            {LOSS: every(10, noisy(2, 0.1, 60) + [3.2] * 20)},
            {35_940: "", **dict.fromkeys(range(37_800, 43_200, 600), WARNING)},
            60,
        ),
        Case(
            "a third above is not yet diverged at that pace, either",
            {LOSS: noisy(2, 0.1, 60) + noisy(2.7, 0.1, 30)},
            dict.fromkeys(range(36_000, 54_000, 1200), ""),
            600,
        ),
        Case(
            "it does not end because the baseline follows",
            {LOSS: noisy(2, 0.1, 120) + [8] * 180},
            {7140: "", **dict.fromkeys(range(7440, 14_400, 300), WARNING)},
            60,
        ),
        Case(
            "with an update every four minutes neither",
            {LOSS: noisy(2, 0.1, 60) + [8] * 60},
            {14_160: "", **dict.fromkeys(range(15_120, 21_600, 480), WARNING)},
            240,
        ),
        Case(
            "it ends when the loss is back",
            {LOSS: noisy(2, 0.1, 120) + [8] * 60 + noisy(2.1, 0.1, 120)},
            {7440: WARNING, 10_740: WARNING, **dict.fromkeys(range(11_400, 17_000, 300), "")},
            60,
        ),
        Case(
            "a third above is not yet diverged",
            {LOSS: noisy(2, 0.1, 300) + noisy(2.7, 0.1, 60)},
            {9210: "", 9600: ""},
            30,
        ),
        Case("a loss that is always noisy", {LOSS: noisy(2, 1.2, 400)}, {9210: "", 9600: "", 11970: ""}, 30),
        Case(
            "one spike is no divergence",
            {LOSS: [*noisy(2, 0.1, 300), 50, *noisy(2, 0.1, 60)]},
            {9000: "", 9030: "", 9300: ""},
            30,
        ),
        Case(
            "a run that has only begun is not compared",
            {LOSS: noisy(2, 0.1, 40) + noisy(9, 0.1, 30)},
            {1290: "", 1800: ""},
            30,
        ),
        Case(
            "in RL the loss is no quality",
            {LOSS: noisy(2, 0.1, 300) + noisy(3.2, 0.1, 60), "rl_reward_mean": "1+0x400"},
            {9210: "", 9600: ""},
            30,
        ),
    ],
    "GradientNormSpike": [
        Case(
            "mean + 6 sigma",
            {NORM: [*noisy(1, 0.1, 200), 1.7, *noisy(1, 0.1, 40)]},
            {995: "", 1000: INFO, 1055: INFO, 1065: ""},
        ),
        Case("mean + 5 sigma is usual", {NORM: [*noisy(1, 0.1, 200), 1.5, *noisy(1, 0.1, 40)]}, {1000: "", 1030: ""}),
        Case(
            "a norm that is clipped to one value has no spread",
            {NORM: ["0.5"] * 200 + ["0.51"] + ["0.5"] * 40},
            {1000: "", 1030: ""},
        ),
        Case(
            "with an update a minute it is told for a quarter of an hour",
            {NORM: [*noisy(1, 0.1, 40), 3, *noisy(1, 0.1, 40)]},
            {2340: "", 2400: INFO, 3240: INFO, 3360: ""},
            60,
        ),
        Case(
            "with an update every ten minutes it is told for most of an hour",
            {NORM: [*noisy(1, 0.1, 40), 3, *noisy(1, 0.1, 20)]},
            {23_400: "", 24_000: INFO, 25_800: INFO, 27_000: ""},
            600,
        ),
        Case("NaN is another rule's", {NORM: [*noisy(1, 0.1, 200), "NaN", *noisy(1, 0.1, 40)]}, {1000: "", 1030: ""}),
    ],
    "GradientNormHigh": [
        Case(
            "a norm that stays up",
            {NORM: noisy(1, 0.1, 300) + [3] * 60},
            {8970: "", 9240: WARNING, 10_700: WARNING},
            30,
        ),
        Case(
            "with an update every ten minutes",
            {NORM: every(10, noisy(1, 0.1, 60) + [3] * 20)},
            {35_940: "", **dict.fromkeys(range(37_800, 43_200, 600), WARNING)},
            60,
        ),
        Case(
            "it does not end because the baseline follows",
            {NORM: noisy(1, 0.1, 120) + [8] * 180},
            {7140: "", **dict.fromkeys(range(7440, 14_400, 300), WARNING)},
            60,
        ),
        Case(
            "it ends when the norm is back, however noisy",
            {NORM: noisy(1, 0.3, 120) + [8] * 60 + noisy(1, 0.3, 120)},
            {7440: WARNING, 10_740: WARNING, **dict.fromkeys(range(11_400, 17_000, 300), "")},
            60,
        ),
        Case("one spike is no level", {NORM: [*noisy(1, 0.1, 300), 30, *noisy(1, 0.1, 60)]}, {9000: "", 9120: ""}, 30),
        Case(
            "a norm that rises slowly",
            {NORM: [1 + 0.002 * n + 0.1 * (n % 2) for n in range(400)]},
            {9000: "", 11970: ""},
            30,
        ),
        Case(
            "a run that has only begun is not compared",
            {NORM: noisy(1, 0.1, 40) + noisy(3, 0.1, 30)},
            {1440: "", 1800: ""},
            30,
        ),
    ],
    "Overfitting": [
        Case(
            "three evaluations worse than the best, while the training loss falls",
            {
                VALIDATION: [2 - 0.02 * n if n % 20 == 0 else None for n in range(300)]
                + [0.1 * (n // 20) - 3.7 + 1 if n % 20 == 0 else None for n in range(200)],
                LOSS: [3 - 0.005 * n for n in range(500)],
            },
            {17_940: "", 29_940: WARNING},
            60,
        ),
        Case(
            "also in the first hour of a short run",
            {
                VALIDATION: every(
                    2, [1.5 - 0.05 * n for n in range(0, 20, 2)] + [0.5 + 0.03 * n for n in range(0, 60, 2)]
                ),
                LOSS: [3 - 0.02 * n for n in range(80)],
            },
            {1200: "", 2700: WARNING, 3600: WARNING, 4740: WARNING},
            60,
        ),
        Case(
            "and where hours lie between two evaluations",
            {
                VALIDATION: every(30, [2, 1.5, 1.2, 1, 1, 1.3, 1.6, 1.9, 2.2, 2.5, 2.8]),
                LOSS: [3 - 0.005 * n for n in range(330)],
            },
            {30_000: "", 72_000: WARNING, 90_000: WARNING},
            300,
        ),
        Case(
            "an evaluation that is a little worse is noise",
            {
                VALIDATION: [2 + 0.01 * (n % 3) if n % 20 == 0 else None for n in range(500)],
                LOSS: [3 - 0.005 * n for n in range(500)],
            },
            {12_000: "", 29_940: ""},
            60,
        ),
        Case(
            "where the training loss rises as well the trouble is another",
            {
                VALIDATION: [1 + 0.01 * n if n % 20 == 0 else None for n in range(500)],
                LOSS: [1 + 0.01 * n for n in range(500)],
            },
            {12_000: "", 29_940: ""},
            60,
        ),
        Case(
            "two evaluations are too few",
            {
                VALIDATION: [2 if n == 0 else 3 if n == 400 else None for n in range(500)],
                LOSS: [3 - 0.005 * n for n in range(500)],
            },
            {29_940: ""},
            60,
        ),
    ],
}
