"""Starts JAX on many processes: what the environment says of them, and what they compare first.

JAX finds SLURM, Open MPI, Kubernetes and TPU pods by itself (`jax.distributed.initialize` without
arguments); torchrun's variables and plain ones it doesn't know. Here each is put into the same
three facts, so that all of them come together, and fail, in one way.
"""

import hashlib
import math
import os
import platform
import socket
import warnings
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, NamedTuple

import jax

import aigc_jax
from aigc_jax.errors import LostPeer, UserError
from aigc_jax.train import peers
from aigc_jax.train.environment import git
from aigc_jax.train.log import warn

_OFF = "--processes=1 trains in this process alone"
_MOST = 5  # differences that are named
# How long hosts have to come, and how long one may be silent (a host that vanished without a word).
START, SILENCE, HUNG = "AIGC_START_SECONDS", "AIGC_SILENCE_SECONDS", "AIGC_HUNG_SECONDS"


class Cluster(NamedTuple):
    """The processes that this one was started with.

    Attributes:
      kind: who says so: "variables", "torchrun", "slurm", "ompi", "kubernetes" or "tpu".
      address: HOST:PORT of process 0. processes: how many. number: of this one. None: JAX finds
        it out.
      local: which of the host's accelerators are this process's, or () for all.
    """

    kind: str
    address: str | None = None
    processes: int | None = None
    number: int | None = None
    local: tuple[int, ...] = ()


def detect(environ: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster that these environment variables tell of; None for a process alone.

    Raises:
      UserError: half of what is needed, or numbers that don't fit.
    """
    readers: tuple[Callable[[Mapping[str, str]], Cluster | None], ...]
    readers = (_plain, _torchrun, _slurm, _ompi, _tpu, _kubernetes)
    for read in readers:
        cluster = read(environ)
        if cluster is not None:
            return _checked(cluster)
    return None


def _checked(cluster: Cluster) -> Cluster | None:
    count, index = cluster.processes, cluster.number
    if count is not None and (count < 1 or index is None or not 0 <= index < count):
        raise UserError(
            f"the environment ({cluster.kind}) says that this is process {index} of {count};"
            f" expected a number from 0 to the count less one. {_OFF}."
        )
    return None if count == 1 else cluster


def _plain(environ: Mapping[str, str]) -> Cluster | None:
    """JAX's own variables; an indexed Job of Kubernetes gives the number under its own name."""
    address = environ.get("JAX_COORDINATOR_ADDRESS")
    count = environ.get("JAX_NUM_PROCESSES")
    index = environ.get("JAX_PROCESS_ID", environ.get("JOB_COMPLETION_INDEX"))
    if address is None and count is None:
        return None
    if count is None and (other := _slurm(environ) or _ompi(environ) or _tpu(environ)):
        return other._replace(address=address)
    if address is None or count is None or index is None:
        raise UserError(
            "the environment has some of JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0),"
            f" JAX_NUM_PROCESSES and JAX_PROCESS_ID; all three are needed. {_OFF}."
        )
    local = environ.get("JAX_LOCAL_DEVICE_IDS", "")
    return Cluster("variables", _address(address), _number(count), _number(index),
                   tuple(map(_number, filter(None, local.split(",")))))  # fmt: skip


def _torchrun(environ: Mapping[str, str]) -> Cluster | None:
    names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
    have = [name for name in names if name in environ]
    if "WORLD_SIZE" not in have or environ["WORLD_SIZE"] == "1":
        return None
    if len(have) < len(names):
        missing = ", ".join(name for name in names if name not in environ)
        raise UserError(f"the environment has WORLD_SIZE, as from torchrun, but no {missing}."
                        f" {_OFF}.")  # fmt: skip
    port = _number(environ["MASTER_PORT"])
    # There torchrun's own store listens at MASTER_PORT.
    port += environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not 0 < port < 65536:
        raise UserError(f"MASTER_PORT={port}: expected a port, 1 to 65535. {_OFF}.")
    local = environ.get("LOCAL_RANK")
    here = _number(environ.get("LOCAL_WORLD_SIZE", environ["WORLD_SIZE"]))
    return Cluster("torchrun", f"{environ['MASTER_ADDR']}:{port}", _number(environ["WORLD_SIZE"]),
                   _number(environ["RANK"]),
                   _share(environ, _number(local), here) if local else ())  # fmt: skip


def _slurm(environ: Mapping[str, str]) -> Cluster | None:
    """A step of several tasks (srun); a job of one task, as those of a sweep, is no cluster."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if not all(name in environ for name in needed):
        return None
    count = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS"))
    if count is None:
        return None
    # "2(x3),1": tasks of each node.
    words = environ.get("SLURM_STEP_TASKS_PER_NODE", count).split(",")
    most = max(_number(word.partition("(")[0]) for word in words)
    local = _share(environ, _number(environ["SLURM_LOCALID"]), most)
    return Cluster("slurm", None, _number(count), _number(environ["SLURM_PROCID"]), local)


def _ompi(environ: Mapping[str, str]) -> Cluster | None:
    if "OMPI_COMM_WORLD_SIZE" not in environ or "OMPI_MCA_orte_hnp_uri" not in environ:
        return None
    count, index, here, local = (
        _number(environ.get(f"OMPI_COMM_WORLD_{name}", "0"))
        for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")
    )
    return Cluster("ompi", None, count, index, _share(environ, local, here))


def _tpu(environ: Mapping[str, str]) -> Cluster | None:
    hosts = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES", ""))
    several = "," in hosts or environ.get("MEGASCALE_NUM_SLICES", "1") not in ("", "1")
    return Cluster("tpu") if several else None


def _kubernetes(environ: Mapping[str, str]) -> Cluster | None:
    """An indexed Job; JAX asks the cluster for the count, with the package `kubernetes`."""
    inside = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environ.keys()
    return Cluster("kubernetes") if inside else None


def _share(environ: Mapping[str, str], local: int, here: int) -> tuple[int, ...]:
    """The accelerators of one of the `here` processes of a host: all, or the one of its number."""
    visible = environ.get("CUDA_VISIBLE_DEVICES", environ.get("ROCR_VISIBLE_DEVICES"))
    divided = visible is not None and len(visible.split(",")) < here
    return () if here <= 1 or divided else (local,)


def _number(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise UserError(f"the environment gives '{word}' for a number of processes.") from None


def _address(word: str) -> str:
    host, _, port = word.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"JAX_COORDINATOR_ADDRESS='{word}': expected HOST:PORT of process 0.")
    return word


def _seconds(name: str, default: float) -> float:
    word = os.environ.get(name, str(default))
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"{name}={word}: expected seconds, above 0.")
    return seconds


def _asked_of_jax(cluster: Cluster, within: float) -> Cluster:
    """Fills in what only JAX knows how to find out."""
    from jax._src import clusters

    known: dict[str, list[Any]] = {
        "slurm": [clusters.SlurmCluster],
        "ompi": [clusters.OmpiCluster],
        "tpu": [clusters.GkeTpuCluster, clusters.GceTpuCluster],
        "kubernetes": [clusters.K8sCluster],
    }
    kinds = known[cluster.kind]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is said below
            kind = next((kind for kind in kinds if kind.is_env_present()), None)
        if kind is None:
            more = "; pip install 'jax[k8s]'" if cluster.kind == "kubernetes" else ""
            raise UserError(
                f"this looks like one process of several ({cluster.kind}), and JAX can't find out"
                " where process 0 is: set JAX_COORDINATOR_ADDRESS (HOST:PORT), JAX_NUM_PROCESSES"
                f" and JAX_PROCESS_ID{more}. {_OFF}."
            )
        count = kind.get_process_count() if cluster.processes is None else cluster.processes
        index = kind.get_process_id() if cluster.number is None else cluster.number
        if count == 1:
            return cluster._replace(processes=1, number=0)
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = cluster.address or kind.get_coordinator_address(int(within), port)
    except RuntimeError as error:
        raise LostPeer(" ".join(str(error).split())) from None
    return cluster._replace(address=address, processes=count, number=index)


def detected(environ: Mapping[str, str]) -> Cluster | None:
    """Does what `detect` does, and asks the machine where the variables say nothing.

    A TPU virtual machine of Google's may be one of several; only its metadata tell.
    """
    from jax._src import cloud_tpu_init

    found = detect(environ)
    return found or (Cluster("tpu") if cloud_tpu_init.running_in_cloud_tpu_vm else None)


def join(cluster: Cluster, config: Mapping[str, Any], signals: Any) -> peers.Alone:
    """Brings all processes together, compares them, and starts JAX on them.

    Call it before anything asks JAX for a device.

    Args:
      cluster: from `detected`. config: flat, setting to value; it must be the same everywhere.
      signals: those of this process, which count for all.

    Raises:
      UserError: hosts that differ, a port in use. LostPeer: hosts that are missing.
    """
    within, patience = _seconds(START, 300.0), _seconds(SILENCE, 60.0)
    if None in (cluster.address, cluster.processes, cluster.number):
        cluster = _asked_of_jax(cluster, within)
    if cluster.processes == 1:
        return peers.here()
    address, count, index = cluster.address, cluster.processes, cluster.number
    assert address is not None and count is not None and index is not None
    hung = _seconds(HUNG, 600.0)
    star = peers.Star(index, count, address, within=within, patience=patience, hung=hung)
    star.asked, star.on_asked, star.on_hung = lambda: signals.asked, signals.ask, warn
    peers.be(star)
    facts = {**versions(), **{name: repr(value) for name, value in config.items()}}
    if words := difference(star.everyone("facts", facts)):
        raise UserError(words)
    port = star.agree(_free_port() if index == 0 else None)
    # Its handler would swallow SIGTERM, which is ours to answer.
    jax.config.update("jax_enable_preemption_service", False)
    # Gloo mixes up the messages of two programs that run at the same time, and hangs.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # The star is quicker than its heartbeats, and says who is missing.
    jax.distributed.initialize(
        f"{address.rpartition(':')[0]}:{port}", count, index, list(cluster.local),
        cluster_detection_method="deactivate", initialization_timeout=int(within),
        heartbeat_timeout_seconds=max(100, int(2 * patience)), shutdown_timeout_seconds=10,
    )  # fmt: skip
    return star


def part(star: peers.Alone) -> None:
    """Ends what `join` began, once all is done: everybody waits for everybody."""
    if star.count > 1:
        star.everyone("the end")
        star.leave()
        jax.distributed.shutdown()


def versions() -> dict[str, str]:
    """What must be the same on all hosts besides the config."""
    code = git()
    changes = hashlib.sha256(str(code["diff"]).encode()).hexdigest()[:12] if code else ""
    return {
        "aigc_jax": aigc_jax.__version__,
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "python": platform.python_version(),
        "git commit": f"{code['commit']}, changes {changes}" if code else "none",
    }


def difference(facts: list[dict[str, str]]) -> str:
    """Says in one line how the processes differ from process 0; "" where they don't."""
    first, found = facts[0], []
    for i, other in enumerate(facts[1:], 1):
        for name in {**first, **other}:
            a, b = (which.get(name, "nothing") for which in (first, other))
            if a != b:
                found.append(f"{name}: {a} on process 0, {b} on process {i}")
    if not found:
        return ""
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return (
        f"the processes differ: {'; '.join(found[:_MOST])}{more}. Start all of them with the same"
        " command, code and packages."
    )


def _free_port() -> int:
    with socket.create_server(("", 0)) as door:
        return int(door.getsockname()[1])
