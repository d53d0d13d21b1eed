"""GPUs, against a library that stands in for the driver."""
