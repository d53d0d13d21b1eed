"""One line in a training script: callbacks, loggers and trackers for the trainers that people use.

Each module needs its trainer, says so where it is missing, and is imported only by whoever uses it.
"""
