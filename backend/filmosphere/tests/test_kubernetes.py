"""The manifests in `deploy/kubernetes`: valid, complete, and in keeping with the service."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from django.core.management import load_command_class
from prometheus_client import REGISTRY

from filmosphere.settings_table import SETTINGS
from tools.harness.server import PROJECT, manage

FOLDER = PROJECT / "deploy" / "kubernetes"
# Neither is a resource of `kubectl apply -k`.
APART = {"kustomization.yaml", "secret.example.yaml"}
MANIFESTS = {
    path.name: yaml.safe_load(path.read_text())
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
}
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


def pod_of(manifest):
    spec = manifest["spec"]
    return spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]


PODS = {
    name: pod_of(manifest)
    for name, manifest in MANIFESTS.items()
    if manifest["kind"] in {"Deployment", "Job", "CronJob"}
}
CONFIG = MANIFESTS["config.yaml"]["data"]
SECRET = MANIFESTS["secret.example.yaml"]["stringData"]
WEB = PODS["deployment.yaml"]["containers"][0]


def validate(*paths):
    """Run `make kubernetes` on these files, with the programs of this environment."""
    return subprocess.run(
        [
            *("make", "--silent", "--old-file=.venv/.tests", "kubernetes"),
            f"BIN={Path(sys.executable).parent}",
            f"MANIFESTS={' '.join(map(str, paths))}",
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_each_manifest_is_valid():
    done = validate(*(FOLDER / name for name in MANIFESTS))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("revisionHistoryLimit: 3", "revisionHistoryLimit: three"),
        ("revisionHistoryLimit: 3", "revisonHistoryLimit: 3"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true"),
        # A version that is gone, of which the validator has no schema.
        ("apiVersion: apps/v1", "apiVersion: extensions/v1beta1"),
    ],
)
def test_a_mistake_is_found_and_ends_the_check_with_an_error(tmp_path, right, wrong):
    text = (FOLDER / "deployment.yaml").read_text()
    assert right in text
    (tmp_path / "deployment.yaml").write_text(text.replace(right, wrong))

    assert validate(tmp_path / "deployment.yaml").returncode != 0


def test_each_file_is_a_resource_of_the_kustomization_and_the_other_way_round():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())

    assert sorted(kustomization["resources"]) == sorted(set(MANIFESTS) - APART)


@pytest.mark.skipif(
    shutil.which("kubectl") is None and os.environ.get("CI") != "true",
    reason="there is no kubectl here",
)
def test_kustomize_puts_all_resources_into_the_namespace_with_the_image(tmp_path):
    made = subprocess.run(
        ["kubectl", "kustomize", FOLDER], capture_output=True, text=True, timeout=60, check=True
    )

    (tmp_path / "all.yaml").write_text(made.stdout)
    assert validate(tmp_path / "all.yaml").returncode == 0
    resources = list(yaml.safe_load_all(made.stdout))
    assert len(resources) == len(MANIFESTS) - 1
    assert {
        each["metadata"].get("namespace") for each in resources if each["kind"] != "Namespace"
    } == {"filmosphere"}
    assert made.stdout.count("image: registry.example/filmosphere:1.0.0") == len(PODS)


def test_the_variables_are_settings_of_the_service():
    assert {*CONFIG, *SECRET} - set(DEFAULTS) == set()
    assert CONFIG.keys() & SECRET.keys() == set()


def test_the_settings_are_accepted_once_the_key_is_real():
    settings = {**CONFIG, **SECRET}

    refused = manage("check", **settings)
    accepted = manage("check", **settings | {"DJANGO_SECRET_KEY": "k3y" + "0123456789" * 5})

    assert "DJANGO_SECRET_KEY is too weak" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr


def test_the_example_holds_no_secret():
    assert all("replace_" in value or value.startswith("your_") for value in SECRET.values())


def test_a_pod_has_time_to_drain_and_to_end_its_requests():
    seconds = float(CONFIG.get("DRAIN_SECONDS", DEFAULTS["DRAIN_SECONDS"]))
    seconds += math.ceil(float(CONFIG.get("FETCH_DEADLINE", DEFAULTS["FETCH_DEADLINE"]))) + 2

    assert PODS["deployment.yaml"]["terminationGracePeriodSeconds"] >= seconds


def test_the_ports_are_those_of_the_settings_and_probes_use_that_of_the_operators():
    ports = {port["name"]: str(port["containerPort"]) for port in WEB["ports"]}
    annotations = MANIFESTS["deployment.yaml"]["spec"]["template"]["metadata"]["annotations"]
    probes = [WEB[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]

    assert ports == {"http": CONFIG["PORT"], "operations": CONFIG["OPS_PORT"]}
    assert annotations["prometheus.io/port"] == CONFIG["OPS_PORT"]
    assert [probe["port"] for probe in probes] == ["operations"] * 3
    assert [probe["path"] for probe in probes] == ["/readyz", "/healthz", "/healthz"]
    assert MANIFESTS["service.yaml"]["spec"]["ports"][0]["targetPort"] == "http"


@pytest.mark.parametrize("name", [name for name in PODS if name != "deployment.yaml"])
def test_a_job_runs_a_command_that_takes_its_arguments(name):
    python, script, command, *arguments = PODS[name]["containers"][0]["command"]

    assert (python, script) == ("python", "manage.py")
    parser = load_command_class("filmosphere", command).create_parser(script, command)
    parser.parse_args(arguments)


@pytest.mark.parametrize("pod", PODS.values(), ids=list(PODS))
def test_a_pod_is_an_ordinary_user_that_can_write_to_tmp_alone(pod):
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert "memory" in container["resources"]["limits"]
    assert [next(iter(source.values()))["name"] for source in container["envFrom"]] == [
        "filmosphere",
        "filmosphere",
    ]


def test_no_pod_is_missed_while_a_release_is_rolled_out():
    assert MANIFESTS["deployment.yaml"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert MANIFESTS["autoscaler.yaml"]["spec"]["minReplicas"] >= 2


def test_the_autoscaler_reads_a_metric_that_the_service_has():
    names = [
        metric["pods"]["metric"]["name"]
        for metric in MANIFESTS["autoscaler.yaml"]["spec"]["metrics"]
        if metric["type"] == "Pods"
    ]

    assert names == ["filmosphere_requests_in_progress"]
    assert set(names) <= {family.name for family in REGISTRY.collect()}


@pytest.mark.parametrize("name", ["service.yaml", "disruption_budget.yaml"])
def test_the_labels_that_are_selected_are_those_of_the_web_pods(name):
    spec = MANIFESTS[name]["spec"]
    template = MANIFESTS["deployment.yaml"]["spec"]["template"]
    selector = spec["selector"].get("matchLabels", spec["selector"])

    assert selector == template["metadata"]["labels"]


def test_pods_reach_each_server_that_the_documents_name_on_its_port():
    rules = MANIFESTS["network_policy.yaml"]["spec"]["egress"]

    admitted = {port["port"] for rule in rules for port in rule["ports"]}
    # DNS, PostgreSQL, PgBouncer, Redis, its sentinels, a collector of traces, the sources.
    assert admitted == {53, 5432, 6432, 6379, 26379, 4318, 443}
