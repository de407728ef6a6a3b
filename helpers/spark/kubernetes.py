"""Kubernetes: any cluster that kubectl reaches, a namespace of its own for the block,
what Spark needs to use it.
"""

import json
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from helpers import settings
from helpers.spark.runtime import ClusterError, Manager
from helpers.waiting import until

MANIFESTS = settings.ROOT / "k8s"
PRESET_IMAGE = "workshop:local"  # as the manifests have it
PROBE_SECONDS = 120
# Why a Pod waits, in Kubernetes' words, and what that means for the reader.
IMAGE_REASONS = (
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
)
CALL_BACK = (
    "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])),"
    " 10).close()"
)


@dataclass
class Kubernetes(Manager):
    """A namespace on a cluster, ready for Spark."""

    namespace: str = ""
    image: str = ""

    def apply(self, name: str) -> None:
        """Apply a manifest of k8s/ with the image that this cluster knows. Raises
        ClusterError.
        """
        text = (MANIFESTS / name).read_text()
        self.kubectl(
            "apply", "--filename=-", manifest=text.replace(PRESET_IMAGE, self.image)
        )

    def kubectl(self, *arguments: object, manifest: str | None = None) -> str:
        """What kubectl prints for these arguments in this namespace; `manifest` goes to
        its standard input.

        Raises ClusterError with kubectl's reason.
        """
        return kubectl("--namespace", self.namespace, *arguments, manifest=manifest)

    def pods(self, selector: str = "") -> list[dict]:
        """The namespace's Pods as Kubernetes describes them, those with the labels of
        `selector`.
        """
        return json.loads(
            self.kubectl("get", "pods", "--output=json", f"--selector={selector}")
        )["items"]

    def executors(self) -> list[str]:
        """Names of the Pods in which Spark's executors run."""
        found = self.pods("spark-role=executor")
        return [
            pod["metadata"]["name"]
            for pod in found
            if pod["status"]["phase"] == "Running"
        ]

    def kill(self, pod: str) -> None:
        """End a Pod at once, as a crash of its node would."""
        self.kubectl("delete", "pod", pod, "--grace-period=0", "--force")


def kubectl(*arguments: object, manifest: str | None = None) -> str:
    """What kubectl prints. Raises ClusterError in one sentence: not installed, no
    cluster, no permission, quota.
    """
    if not shutil.which("kubectl"):
        raise ClusterError(
            "kubectl is not in the PATH: install it, and point KUBECONFIG to a cluster."
        )
    done = subprocess.run(
        ["kubectl", "--request-timeout=20s", *map(str, arguments)],
        input=manifest if manifest is not None else "",
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode == 0:
        return done.stdout
    said = (
        done.stderr.strip().splitlines()[-1]
        if done.stderr.strip()
        else "no reason given"
    )
    if "exceeded quota" in said:
        raise ClusterError(
            f"The namespace's quota is used up: free something or ask for more. {said}"
        )
    if "orbidden" in said:
        raise ClusterError(
            "You may not do this on the cluster: ask for the role in"
            f" k8s/spark-role.yaml. {said}"
        )
    if any(
        words in said
        for words in (
            "refused",
            "Unable to connect",
            "no configuration",
            "no such host",
            "timeout",
        )
    ):
        raise ClusterError(
            "No Kubernetes cluster answers: start one (kind, minikube) or set"
            f" KUBECONFIG to yours. {said}"
        )
    raise ClusterError(f"kubectl {' '.join(map(str, arguments[:3]))} failed: {said}")


def answers() -> bool:
    """True when kubectl is there and reaches a cluster."""
    try:
        kubectl("get", "--raw", "/readyz")
    except ClusterError:
        return False
    return True


def driver_host() -> str:
    """The address by which Pods reach this machine: WORKSHOP_DRIVER_HOST, else the one
    that faces the cluster.
    """
    if named := settings.spark_driver_host():
        return named
    server = urlsplit(_server())
    with socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as probe:  # nothing is sent: the kernel only picks a route
        probe.connect((server.hostname, server.port or 443))
        return probe.getsockname()[0]


@contextmanager
def kubernetes(
    image: str | None = None, namespace: str | None = None, cores: float = 0.5
) -> Iterator[Kubernetes]:
    """A namespace for the block, with the service account and role of
    k8s/spark-role.yaml; deleted at its end.

    `image` is the workshop's image as the cluster knows it (WORKSHOP_IMAGE, see
    docker/README.md), `cores` what an executor asks for. An existing `namespace` is
    used as it is and kept. A Pod of the image is started first, and has to reach this
    machine: so what is missing is said at once, and not by a job that waits for ever.
    Raises ClusterError when there is no cluster, no permission, no such image, no quota
    left, or no way back to the driver.
    """
    image = image or settings.image()
    own = namespace is None
    name = namespace or f"workshop-{uuid.uuid4().hex[:8]}"
    if own:
        kubectl("create", "namespace", name)
    try:
        host = driver_host()
        cluster = Kubernetes(
            f"k8s://{_server()}",
            "",
            _conf(name, image, host, cores),
            _environment(),
            name,
            image,
        )
        cluster.apply("spark-role.yaml")
        _check(cluster, image, host)
        print(f"Kubernetes at {_server()}, namespace {name}, image {image}")
        yield cluster
    finally:
        if own:
            kubectl("delete", "namespace", name, "--wait=false")


def _server() -> str:
    server = kubectl(
        "config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}"
    ).strip()
    if not server:
        raise ClusterError(
            "No Kubernetes cluster is configured: start one (kind, minikube) or set"
            " KUBECONFIG to yours."
        )
    return server


def _conf(namespace: str, image: str, host: str, cores: float) -> dict[str, str]:
    return {
        "spark.kubernetes.namespace": namespace,
        "spark.kubernetes.container.image": image,
        "spark.kubernetes.container.image.pullPolicy": "IfNotPresent",
        "spark.kubernetes.authenticate.driver.serviceAccountName": "spark",
        "spark.kubernetes.driver.podTemplateFile": str(MANIFESTS / "spark-pod.yaml"),
        "spark.kubernetes.executor.podTemplateFile": str(MANIFESTS / "spark-pod.yaml"),
        "spark.kubernetes.executor.request.cores": str(cores),
        "spark.driver.host": host,
        "spark.driver.bindAddress": host,
        # in a Pod; a folder that only this machine has would be of no use there
        "spark.local.dir": "/tmp/spark",
    }


def _environment() -> dict[str, str]:
    """The workers' Python is the image's; the driver's stays this one."""
    return {"PYSPARK_PYTHON": "python"}


def _check(cluster: Kubernetes, image: str, host: str) -> None:
    """Run a Pod of the image that connects back to this machine. Raises ClusterError
    that says what is missing.
    """
    with socket.socket() as door:
        try:
            door.bind((host, 0))
        except OSError:
            raise ClusterError(
                f"This machine has no address {host}: set WORKSHOP_DRIVER_HOST to one"
                " of its own."
            ) from None
        door.listen()
        pod = _probe(image, host, door.getsockname()[1])
        cluster.kubectl("apply", "--filename=-", manifest=json.dumps(pod))
        outcome = until(
            lambda: _outcome(cluster, image),
            PROBE_SECONDS,
            f"A Pod of {image}",
            every=0.5,
            error=lambda message: ClusterError(
                f"{message} Its state: {_state(cluster)}."
            ),
        )
        if outcome == "Failed":
            raise ClusterError(
                f"A Pod could not reach this machine at {host}: set"
                " WORKSHOP_DRIVER_HOST to an address that Pods reach."
            )
        cluster.kubectl("delete", "pod", "probe", "--wait=false")


def _probe(image: str, host: str, port: int) -> dict:
    container = {
        "name": "probe",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", CALL_BACK, host, str(port)],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "128Mi"},
        },
    }
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "automountServiceAccountToken": False,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe"},
        "spec": spec,
    }


def _outcome(cluster: Kubernetes, image: str) -> str | None:
    """How the Pod has ended, or None. Raises ClusterError where its image is not."""
    state = _state(cluster)
    if state in IMAGE_REASONS:
        raise ClusterError(
            f"The cluster has no image {image} ({state}): build it, load it into the"
            " cluster (docker/README.md) or name another by WORKSHOP_IMAGE."
        )
    return state if state in ("Succeeded", "Failed") else None


def _state(cluster: Kubernetes) -> str:
    """A Pod's phase, or the reason for which it waits."""
    status = json.loads(cluster.kubectl("get", "pod", "probe", "--output=json"))[
        "status"
    ]
    for container in status.get("containerStatuses", []):
        if "waiting" in container["state"]:
            return container["state"]["waiting"].get("reason", status["phase"])
    for condition in status.get("conditions", []):
        if condition.get("reason") == "Unschedulable":
            return f"Unschedulable: {condition['message']}"
    return status["phase"]
