"""The stack that shows the dashboards: valid to the real tools, pinned, and consistent with what it is given."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.servers import require

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES = [pytest.param(name, id=name) for name in COMPOSE["services"]]


def load_yaml(path: str) -> dict[str, Any]:
    """A YAML file of the repository."""
    return dict(yaml.safe_load((ROOT / path).read_text("utf-8")))


def test_compose_file_is_valid() -> None:
    """docker-compose accepts the file, with and without the demo."""
    run_tool("docker-compose", "-f", str(ROOT / "docker-compose.yml"), "config", "-q")
    run_tool("docker-compose", "-f", str(ROOT / "docker-compose.yml"), "--profile", "demo", "config", "-q")


def run_tool(name: str, *arguments: str) -> str:
    """Run a binary that must succeed; returns what it printed."""
    done = subprocess.run([require(name), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    """An image that is pulled has a patch version; one that is built is built from such images."""
    service = COMPOSE["services"][name]
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    images = bases if "build" in service else [service["image"]]
    assert images
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+(-[a-z-]+)?$", image)] == []


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_watched_or_end(name: str) -> None:
    """A service restarts and has a health check, or it is part of the demo and ends by itself."""
    service = COMPOSE["services"][name]
    if service.get("profiles") == ["demo"]:
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_for_this_machine_only(name: str) -> None:
    """No service listens on an address that another machine can reach."""
    ports = COMPOSE["services"][name].get("ports", [])
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_mounts_exist(name: str) -> None:
    """What a service mounts is a folder of the repository or a named volume."""
    for mount in COMPOSE["services"][name]["volumes"]:
        source = mount.split(":")[0]
        assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]


def test_grafana_finds_what_is_provisioned() -> None:
    """The folder and the variable that the provisioning names are the ones that the service is given."""
    [provider] = load_yaml("grafana/provisioning/dashboards/telemetry.yaml")["providers"]
    [source] = load_yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    grafana = COMPOSE["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    assert source["url"].removeprefix("$") in grafana["environment"]


def test_compose_targets_replace_all_targets() -> None:
    """Each target file of a machine without containers has its counterpart that names a service."""
    local = {path.name for path in (ROOT / "prometheus" / "targets").glob("*.json")}
    assert local == {path.name for path in (ROOT / "prometheus" / "compose").iterdir()}
    for path in (ROOT / "prometheus" / "compose").iterdir():
        [[target]] = [group["targets"] for group in json.loads(path.read_text("utf-8"))]
        service, port = target.split(":")
        assert f"127.0.0.1:{port}:{port}" in COMPOSE["services"][service]["ports"]
