# make demo    train two real PPO runs and watch them through Prometheus and Alertmanager
# make test    what CI checks first; make test-integrations: the same with real trainers;
#              make test-dashboards: the dashboards through Grafana's own code
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TRAINERS := .venv-trainers

.PHONY: demo test check unit test-integrations test-dashboards benchmark benchmark-dashboards servers golden clean

demo: $(VENV)/demo servers
	$(BIN)/telemetry-exporter demo $(DEMO)

test: check unit

$(VENV)/demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/dev: pyproject.toml | $(VENV)/demo
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,generate,parquet,remote-write,dev]'
	touch $@

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/interrogate --quiet exporter tests
	$(BIN)/telemetry-exporter generate --check

# Several at once also on two cores: most tests wait for processes and servers. Those that train and measure come last.
unit: $(VENV)/dev servers
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -m "not slow" --numprocesses=3 --dist=loadfile
	$(BIN)/coverage run -m pytest -m slow --numprocesses=2 --dist=loadfile
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

$(TRAINERS)/ready: tests/integrations/requirements.txt pyproject.toml
	$(PYTHON) -m venv $(TRAINERS)
	$(TRAINERS)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(TRAINERS)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/integrations/requirements.txt --editable '.[dev]'
	touch $@

# Real trainers on the CPU: what they log through us, and what we read of what they write themselves.
test-integrations: $(TRAINERS)/ready
	$(TRAINERS)/bin/python -m pytest tests/integrations

# The dashboards through Grafana's own code and a browser; needs node, npm and chromium.
test-dashboards: $(VENV)/dev servers tests/grafana/node_modules
	$(BIN)/python -m pytest tests/grafana

tests/grafana/node_modules: tests/grafana/package-lock.json
	cd tests/grafana && npm ci --loglevel=error
	touch $@

benchmark: $(VENV)/dev
	$(BIN)/python tests/benchmarks/bench_spine.py
	$(BIN)/python tests/benchmarks/bench_gpu.py
	$(BIN)/python tests/benchmarks/bench_host.py
	$(BIN)/python tests/benchmarks/bench_sources.py
	$(BIN)/python tests/benchmarks/bench_backfill.py
	$(BIN)/python tests/benchmarks/bench_following.py
	$(BIN)/python tests/benchmarks/bench_ranks.py

benchmark-dashboards: $(VENV)/dev servers tests/grafana/node_modules
	$(BIN)/python tests/benchmarks/bench_dashboards.py

# The servers of the tests from the distribution, where they are missing and may be installed; the demo needs the first two.
SERVERS := prometheus prometheus-alertmanager victoria-metrics
servers:
	@(for server in $(SERVERS); do command -v $$server || command -v $${server#prometheus-} || exit 1; done) >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	     && apt-get update -qq && apt-get install -y -qq --no-install-recommends $(SERVERS); } >/dev/null \
	|| echo "one of $(SERVERS) is missing and cannot be installed here; on Debian: sudo apt-get install $(SERVERS)"

# Rewrite every generated file.
golden: $(VENV)/dev
	$(BIN)/telemetry-exporter generate

clean:
	rm -rf $(VENV) $(TRAINERS) tests/grafana/node_modules tests/grafana/built .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
