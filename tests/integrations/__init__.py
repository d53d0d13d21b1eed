"""Real trainers on the CPU: through our integrations, and by what they write themselves."""
