"""Deploy Ignite and the scoring service on Kubernetes; roll out, scale and hurt them
under load; count what failed.

python -m benchmark.deploy          writes benchmark/results/deploy.json
"""

import argparse
import base64
import io
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from benchmark import RESULTS, write
from helpers import data, errors
from helpers.serving import load, scoring_process
from helpers.spark.kubernetes import ClusterError, Kubernetes, kubernetes
from helpers.waiting import until
from service import model as models

ROWS = 1000  # flights that are asked for
CALM = 8  # seconds of undisturbed load before each step, to compare with


def contents() -> tuple[dict, dict, data.DesignMatrix]:
    """Two model files' contents, trained on nine months and on the last three of them,
    and the matrix.
    """
    matrix = data.design_matrix("scheduled")
    content = scoring_process.encoding(data.features("scheduled"))
    content["mean"] += [0.0, 0.0]
    content["scale"] += [1.0, 1.0]
    made = []
    for rows in (slice(None), slice(-len(matrix.y_train) // 3, None)):
        fitted = LogisticRegression(max_iter=200).fit(
            matrix.X_train[rows], matrix.y_train[rows]
        )
        weights = fitted.coef_[0].tolist()
        parts = {  # the deployment is asked without live features: these stay unused
            name: {
                "coefficients": weights + [0.0] * extra,
                "intercept": float(fitted.intercept_[0]),
            }
            for name, extra in models.MODELS.items()
        }
        made.append(content | {"models": parts})
    first, second = made
    return first, second, matrix


class Deployment:
    """The service with its store in a namespace of the cluster."""

    def __init__(self, cluster: Kubernetes):
        self.cluster, self.folder = cluster, tempfile.TemporaryDirectory()
        self.steps: list[dict] = []

    def start(self, first: dict, matrix: data.DesignMatrix) -> None:
        """Ignite, its rows, the network policy, one copy of the service, all ready."""
        self.cluster.apply("ignite.yaml")
        self.cluster.apply("network-policy.yaml")
        self.cluster.kubectl(
            "rollout", "status", "statefulset/ignite", "--timeout=240s"
        )
        rows = Path(self.folder.name, "rows.npz")
        cache = models.Model(first).features_cache
        np.savez(
            rows, ids=matrix.id_test[:ROWS], rows=matrix.X_test[:ROWS], cache=cache
        )
        fill = Path(__file__).with_name("fill.py")
        self.cluster.kubectl(
            "create", "configmap", "rows", f"--from-file={fill}", f"--from-file={rows}"
        )
        self.cluster.apply("fill-job.yaml")
        self.cluster.kubectl(
            "wait", "job/fill", "--for=condition=complete", "--timeout=120s"
        )
        self._store_model(first, "model")
        self.cluster.apply("prediction-service.yaml")
        self.cluster.kubectl("scale", "deployment/prediction", "--replicas=1")
        self.settled()

    def settled(self) -> None:
        """Wait until every wanted Pod of the new version is ready and every other has
        gone.
        """
        self.cluster.kubectl(
            "rollout", "status", "deployment/prediction", "--timeout=240s"
        )
        self.cluster.kubectl(
            "rollout", "status", "statefulset/ignite", "--timeout=240s"
        )
        until(
            lambda: all(
                "deletionTimestamp" not in pod["metadata"]
                for pod in self.cluster.pods()
            ),
            120,
            "The end of every Pod that was told to end",
            every=0.2,
            error=ClusterError,
        )

    def loaded(self, matrix: data.DesignMatrix) -> None:
        """Begin to ask for one flight after another from inside the cluster."""
        bodies = Path(self.folder.name, "bodies.json")
        asked = [
            {"flights": [{"id": int(key)}], "live": "never"}
            for key in matrix.id_test[:ROWS]
        ]
        bodies.write_text(json.dumps([json.dumps(body) for body in asked]))
        self.cluster.kubectl("create", "configmap", "load", f"--from-file={bodies}")
        self.cluster.apply("load-job.yaml")
        until(
            lambda: (
                "begun" in self.cluster.kubectl("logs", "job/load", "--ignore-errors")
            ),
            120,
            "The load (is the image the present one?)",
            every=0.2,
            error=ClusterError,
        )

    def step(self, what: str, *kubectl: object) -> None:
        """After a calm while, change something and wait until all is settled; the
        moments are kept.
        """
        time.sleep(CALM)
        begin = time.time()
        self.cluster.kubectl(*kubectl)
        self.settled()
        self.steps.append({"what": what, "begin": begin, "end": time.time()})
        print(
            f"{what}: settled after {self.steps[-1]['end'] - begin:.1f} s", flush=True
        )

    def roll_out(self, second: dict) -> None:
        """Give the Deployment another ConfigMap, as a new version of the model."""
        name = f"model-{models.version(second)}"
        self._store_model(second, name)
        volume = {"spec": {"volumes": [{"name": "model", "configMap": {"name": name}}]}}
        self.step(
            "roll out",
            "patch",
            "deployment/prediction",
            "--patch",
            json.dumps({"spec": {"template": volume}}),
        )

    def requests(self) -> pd.DataFrame:
        """What the load saw once it has ended: `when`, `ms`, `status` per request."""
        self.cluster.kubectl(
            "wait", "job/load", "--for=condition=complete", "--timeout=180s"
        )
        last = self.cluster.kubectl("logs", "job/load").split()[-1]
        with np.load(io.BytesIO(base64.b64decode(last))) as saved:
            return pd.DataFrame(
                {name: saved[name] for name in ("when", "ms", "status")}
            )

    def pod(self, name: str) -> str:
        """One of the ready Pods with that name as their label."""
        pods = self.cluster.pods(f"app.kubernetes.io/name={name}")
        return next(
            pod["metadata"]["name"]
            for pod in pods
            if pod["status"]["phase"] == "Running"
        )

    def _store_model(self, content: dict, name: str) -> None:
        file = Path(self.folder.name, "model.json")
        models.save(content, file)
        self.cluster.kubectl("create", "configmap", name, f"--from-file={file}")


def measure(cluster: Kubernetes) -> dict:
    """Deploy; then, under load, scale from 1 to 2, roll out, delete and kill a Pod, and
    kill one of Ignite's.
    """
    first, second, matrix = contents()
    deployment = Deployment(cluster)
    begin = time.time()
    deployment.start(first, matrix)
    ready = time.time() - begin
    print(f"deployed in {ready:.1f} s", flush=True)
    deployment.loaded(matrix)
    deployment.step("scale to 2", "scale", "deployment/prediction", "--replicas=2")
    deployment.roll_out(second)
    deployment.step(
        "delete a Pod", "delete", "pod", deployment.pod("prediction"), "--wait=false"
    )
    force = ("--grace-period=0", "--force")
    deployment.step("kill a Pod", "delete", "pod", deployment.pod("prediction"), *force)
    deployment.step(
        "kill an Ignite Pod", "delete", "pod", deployment.pod("ignite"), *force
    )
    requests = deployment.requests()
    zero = requests["when"].min()
    for step in deployment.steps:
        during = requests[
            requests["when"].between(step["begin"] - 0.5, step["end"] + CALM / 2)
        ]
        answered = load.summary(during)
        step |= {
            "begin": step["begin"] - zero,
            "end": step["end"] - zero,
            "requests": len(during),
        }
        step |= {
            "failed": int((during["status"] != 200).sum()),
            "p99_ms": answered["p99_ms"],
        }
        step |= {"longest_ms": float(during["ms"].max())}
    second_of = (requests["when"] - zero).astype(int)
    lines = requests.assign(failed=requests["status"] != 200).groupby(second_of)
    each = pd.DataFrame(
        {
            "requests": lines.size(),
            "failed": lines["failed"].sum(),
            "p50_ms": lines["ms"].median(),
        }
    )
    each["longest_ms"] = lines["ms"].max()
    return {
        "deploy_s": ready,
        "steps": deployment.steps,
        "seconds": each.round(2).to_dict("list"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.deploy", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "deploy.json")
    options = parser.parse_args()
    with kubernetes() as cluster:
        found = measure(cluster)
    write(options.output, found)
    for step in found["steps"]:
        print(
            f"{step['what']}: {step['failed']} of {step['requests']} requests failed,"
            f" p99 {step['p99_ms']:.0f} ms"
        )


if __name__ == "__main__":
    errors.run(main)
