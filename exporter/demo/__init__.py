"""The demo trainer: a small but real PPO whose telemetry the demo shows."""
