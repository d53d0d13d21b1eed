"""The dashboards, run by Grafana's own code on real runs."""
