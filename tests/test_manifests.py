"""The manifests in k8s/: each fits its schema, a cluster accepts it, and Spark runs by
them inside the cluster.
"""

import contextlib
import os
import re
import subprocess

import kubernetes_validate
import numpy as np
import pytest
import yaml

from benchmark.deploy import Deployment, contents
from helpers.serving.scoring_process import Service
from helpers.spark import kubernetes, runtime
from helpers.spark.kubernetes import MANIFESTS, ClusterError
from service.model import Model

pytestmark = pytest.mark.managers
SCHEMA = "1.35"  # the version that they were applied to
FILES = sorted(path.name for path in MANIFESTS.glob("*.yaml"))
JOB = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
print("sum", spark.range(1001).groupBy().sum().first()[0])
"""


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


@pytest.mark.parametrize("name", FILES)
def test_fits_the_schema(name):
    for document in documents(name):
        kubernetes_validate.validate(document, SCHEMA, strict=True)


def test_a_wrong_manifest_does_not_fit():
    *_, deployment = documents("prediction-service.yaml")
    deployment["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(deployment, SCHEMA, strict=True)


def containers():
    for name in FILES:
        for document in documents(name):
            template = (
                document["spec"].get("template", document) if "spec" in document else {}
            )
            pod = template.get("spec", {})
            for container in pod.get("containers", []) if isinstance(pod, dict) else []:
                yield pytest.param(pod, container, id=f"{name}:{container['name']}")


@pytest.mark.parametrize(("pod", "container"), list(containers()))
@pytest.mark.security
def test_no_container_may_more_than_it_needs(pod, container):
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    if (
        container["name"] != "spark"
    ):  # Spark itself writes the limits of its template's container
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


@pytest.mark.security
@pytest.mark.parametrize(("pod", "container"), list(containers()))
def test_no_container_shares_what_is_the_machines(pod, container):
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert "initContainers" not in pod  # they would have to be looked at here, too
    assert pod["securityContext"].get("runAsUser", 1000) > 0
    assert container["securityContext"].keys() <= {
        "allowPrivilegeEscalation",
        "capabilities",
        "readOnlyRootFilesystem",
    }
    assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
    assert not [port for port in container.get("ports", []) if "hostPort" in port]


@pytest.mark.security
def test_probes_and_prometheus_have_a_port_that_no_client_reaches():
    service, _, deployment = documents("prediction-service.yaml")
    template = deployment["spec"]["template"]
    (container,) = template["spec"]["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["WORKSHOP_SERVICE_PORT"] == str(ports["http"])
    assert environment["WORKSHOP_SERVICE_HEALTH_PORT"] == str(ports["health"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "health"
    scraped = template["metadata"]["annotations"]["prometheus.io/port"]
    assert scraped == str(ports["health"])
    assert [each["targetPort"] for each in service["spec"]["ports"]] == ["http"]


@pytest.mark.security
def test_services_are_reached_from_within_the_cluster_only():
    services = [
        each for name in FILES for each in documents(name) if each["kind"] == "Service"
    ]
    assert services
    assert {each["spec"].get("type", "ClusterIP") for each in services} == {"ClusterIP"}
    assert not [
        each
        for name in FILES
        for each in documents(name)
        if each["kind"] in ("Ingress", "Gateway")
    ]


@pytest.mark.security
def test_the_role_lets_spark_make_pods_and_no_more():
    _, role, _ = documents("spark-role.yaml")
    (rule,) = role["rules"]
    assert rule["apiGroups"] == [""]
    assert "secrets" not in rule["resources"]
    assert "*" not in rule["resources"] + rule["verbs"]


@pytest.fixture(scope="module")
def cluster(real_cluster):
    with kubernetes.kubernetes() as running:
        yield running


@pytest.mark.parametrize("name", FILES)
def test_a_cluster_accepts_it(cluster, name):
    text = (MANIFESTS / name).read_text()
    if name == "spark-pod.yaml":  # a template: only Spark gives it a name and an image
        text = text.replace("metadata:", "metadata:\n  name: template").replace(
            "- name: spark", "- name: spark\n      image: x"
        )
    cluster.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "--filename=-", manifest=text
    )


def test_a_cluster_refuses_a_field_that_it_does_not_know(cluster):
    text = (
        (MANIFESTS / "prediction-service.yaml")
        .read_text()
        .replace("replicas: 2", "replica: 2")
    )
    with pytest.raises(ClusterError, match="replica"):
        cluster.kubectl(
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "--filename=-",
            manifest=text,
        )


def test_a_job_whose_pod_is_the_driver(cluster, tmp_path):
    (tmp_path / "job.py").write_text(JOB)
    files = (
        f"--from-file={tmp_path / 'job.py'}",
        f"--from-file={MANIFESTS / 'spark-pod.yaml'}",
    )
    cluster.kubectl("create", "configmap", "job", *files)
    cluster.apply("spark-submit-job.yaml")
    cluster.kubectl(
        "wait", "job/spark-driver", "--for=condition=complete", "--timeout=180s"
    )
    assert "sum 500500" in cluster.kubectl("logs", "job/spark-driver")


def test_cluster_mode_starts_the_driver_in_a_pod(cluster):
    """The script has to be in the image: here one of Spark's own examples."""
    within = "local:///workshop/.venv/lib/python3.11/site-packages/pyspark/examples/src/main/python/pi.py"
    conf = {
        key: value
        for key, value in cluster.conf.items()
        if not key.startswith("spark.driver.")
    }
    conf |= {
        "spark.driver.memory": "700m",
        "spark.executor.memory": "700m",
        "spark.executor.instances": 1,
    }
    options = [
        part for key, value in conf.items() for part in ("--conf", f"{key}={value}")
    ]
    where = ["--master", cluster.url, "--deploy-mode", "cluster", "--name", "pi"]
    subprocess.run(
        [runtime.home() / "bin" / "spark-submit", *where, *options, within],
        env={**os.environ, **runtime.environment(), **cluster.environment},
        check=True,
        capture_output=True,
        timeout=240,
    )
    (driver,) = [
        pod
        for pod in cluster.pods("spark-role=driver")
        if pod["metadata"]["name"].startswith("pi-")
    ]
    assert driver["status"]["phase"] == "Succeeded"
    assert re.search(
        r"Pi is roughly 3\.1", cluster.kubectl("logs", driver["metadata"]["name"])
    )


@contextlib.contextmanager
def forwarded(cluster, service: str, port: int):
    """A port of this machine that leads to a service of the cluster."""
    command = [
        "kubectl",
        "--namespace",
        cluster.namespace,
        "port-forward",
        f"service/{service}",
        f":{port}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        try:
            yield re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline())[1]
        finally:
            forward.terminate()


def test_spark_connect_serves_a_session_from_outside(cluster):
    cluster.kubectl(
        "create",
        "configmap",
        "spark-pod",
        f"--from-file={MANIFESTS / 'spark-pod.yaml'}",
    )
    cluster.apply("spark-connect.yaml")
    cluster.kubectl("rollout", "status", "deployment/spark-connect", "--timeout=180s")
    with forwarded(cluster, "spark-connect", 15002) as port:
        shell = f"{runtime.home()}/bin/spark-shell --remote sc://127.0.0.1:{port}"
        # the shell insists on a terminal
        done = subprocess.run(
            ["script", "--quiet", "--command", shell, "/dev/null"],
            input=(
                'println("sum " +'
                ' spark.range(1001).selectExpr("sum(id)").collect().head)\nexit\n'
            ),
            env={**os.environ, **runtime.environment()},
            capture_output=True,
            text=True,
            timeout=180,
        )
    assert "sum [500500]" in done.stdout, done.stdout + done.stderr


def test_the_service_scores_the_rows_that_ignite_holds(cluster):
    first, _, matrix = contents()
    Deployment(cluster).start(first, matrix)
    flights = [{"id": int(key)} for key in matrix.id_test[:20]]
    with forwarded(cluster, "prediction", 80) as port:
        status, answer = Service(int(port), None).ask(
            "/predict", {"flights": flights, "live": "never"}
        )
    assert status == 200
    assert {one["source"] for one in answer["predictions"]} == {"store"}
    coefficients, intercept = Model(first).weights["scheduled"]
    expected = 1 / (1 + np.exp(-(matrix.X_test[:20] @ coefficients + intercept)))
    np.testing.assert_allclose(
        [one["probability"] for one in answer["predictions"]], expected, atol=1e-9
    )
