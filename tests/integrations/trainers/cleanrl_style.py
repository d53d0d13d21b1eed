"""A REINFORCE of one file that logs as CleanRL does: one scalar a call, settings as a table in a text.

python cleanrl_style.py FOLDER [ENVIRONMENT_STEPS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import torch
from torch.utils.tensorboard import SummaryWriter

SETTINGS = {"exp_name": "reinforce", "env_id": "CartPole-v1", "seed": 1, "learning_rate": 0.01, "gamma": 0.99}


def train(folder: Path, steps: int = 1500, make_writer: Callable[[str], Any] = SummaryWriter) -> None:
    """Train; the event file lies in the folder, unless another writer is made."""
    torch.manual_seed(SETTINGS["seed"])
    writer = make_writer(str(folder))
    rows = "\n".join(f"|{key}|{value}|" for key, value in SETTINGS.items())
    writer.add_text("hyperparameters", f"|param|value|\n|-|-|\n{rows}")
    env = gymnasium.make(SETTINGS["env_id"])
    policy = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr=SETTINGS["learning_rate"])
    start, global_step = time.monotonic(), 0
    while global_step < steps:
        log_probs, entropies, rewards = play(env, policy, seed=global_step)
        global_step += len(rewards)
        weights = returns(rewards)
        advantages = (weights - weights.mean()) / (weights.std() + 1e-8)
        loss = -(torch.stack(log_probs) * advantages).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        writer.add_scalar("charts/episodic_return", sum(rewards), global_step)
        writer.add_scalar("charts/episodic_length", len(rewards), global_step)
        writer.add_scalar("charts/learning_rate", optimizer.param_groups[0]["lr"], global_step)
        writer.add_scalar("losses/policy_loss", loss.item(), global_step)
        writer.add_scalar("losses/entropy", torch.stack(entropies).mean(), global_step)
        writer.add_scalar("charts/SPS", int(global_step / (time.monotonic() - start)), global_step)
        print(f"global_step={global_step}, episodic_return={sum(rewards)}", flush=True)
    env.close()
    writer.close()


def play(env: Any, policy: torch.nn.Module, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor], list[float]]:
    """One episode: log probabilities and entropies of its actions, and its rewards."""
    log_probs, entropies, rewards = [], [], []
    observation, _ = env.reset(seed=seed)
    done = False
    while not done:
        distribution = torch.distributions.Categorical(logits=policy(torch.as_tensor(observation)))
        action = distribution.sample()
        observation, reward, terminated, truncated, _ = env.step(action.item())
        log_probs.append(distribution.log_prob(action))
        entropies.append(distribution.entropy().detach())
        rewards.append(float(reward))
        done = terminated or truncated
    return log_probs, entropies, rewards


def returns(rewards: list[float]) -> torch.Tensor:
    """Discounted sums of the rewards from each step on."""
    total, sums = 0.0, []
    for reward in reversed(rewards):
        total = reward + SETTINGS["gamma"] * total
        sums.append(total)
    return torch.tensor(sums[::-1])


if __name__ == "__main__":
    train(Path(sys.argv[1]), int((*sys.argv, "1500")[2]))
