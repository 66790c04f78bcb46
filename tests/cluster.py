"""A Slurm cluster of one node on this machine, which runs while a `with` block lasts.

It is a real cluster: munged, slurmctld and slurmd run as root and talk over the loopback device,
without systemd, cgroups or accounting. The node claims more processors, memory and GPUs than the
machine has. Only memory use is enforced. A job that asks for a GPU gets CUDA_VISIBLE_DEVICES.

All files are in the folder passed in, with two exceptions. The configuration is linked to
/etc/slurm, where every Slurm command looks for it, since the executor plugin drops the SLURM_*
variables from a job's environment; what was there before is put back. And /etc/hosts gets a line
if it lacks the machine's own name.
"""

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
SAVED = Path("/etc/slurm.saved-by-tests")
HOSTS = Path("/etc/hosts")
NODE = socket.gethostname().split(".")[0]
DAEMONS = ("munged", "slurmctld", "slurmd")
KILL_WAIT = 15  # s from SIGTERM to SIGKILL at a job's time limit

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
# Processes are found by their group and watched by polling: a container may have no cgroups.
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MpiDefault=none
# The node may claim more than the machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
# Without accounting, a finished job is known only for this long; a slow machine needs hours.
MinJobAge=7200
KillWait={kill_wait}
OverTimeLimit=0
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} Gres=gpu:{gpus}
PartitionName=main Nodes={node} Default=YES MaxTime=1-0 DefaultTime=10
"""


def unavailable() -> str | None:
    """Returns why no cluster can be started here, None if one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster has to be started by root"
    missing = [name for name in (*DAEMONS, "sbatch") if not _program(name)]
    if missing:
        return f"no {' and no '.join(missing)}"
    if "SLURM_CONF" in os.environ:
        return "SLURM_CONF points to another cluster"
    return None


@contextlib.contextmanager
def cluster(folder: Path, cpus: int = 8, memory_mb: int = 8000, gpus: int = 2) -> Iterator[None]:
    """Starts the cluster; at the end cancels its jobs and stops it."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone())
        _configure(folder, cpus, memory_mb, gpus)
        stack.enter_context(_installed(folder))
        stack.enter_context(_named())
        try:
            munge = f"--socket={folder}/munge.socket"
            # --force: munged refuses folders below one that others can write to, such as /tmp.
            start = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", munge]
            start += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "seed")]
            stack.enter_context(_daemon(folder, start))
            _wait(10, "munged", lambda: _says("munge", "--no-input", munge))
            stack.enter_context(_daemon(folder, ["slurmctld", "-D"]))
            _wait(30, "slurmctld", lambda: " is UP" in _says("scontrol", "ping"))
            stack.enter_context(_daemon(folder, ["slurmd", "-D"]))
            stack.callback(_cancel_jobs)
            _wait(60, "the node", lambda: _says("sinfo", "--noheader", "--format=%T") == "idle")
        except TimeoutError as error:
            logs = [f"== {log.name}\n{log.read_text()[-2000:]}" for log in folder.glob("*.log")]
            raise RuntimeError("\n".join([f"no Slurm cluster: {error}", *logs])) from None
        yield


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Waits for the cluster of another test to end; refuses to run beside a foreign one."""
    with open("/run/lock/slurm-of-tests", "w", encoding="utf-8") as file:

        def locked() -> bool:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            return False

        _wait(900, "the cluster of another test to end", locked)
        for process in psutil.process_iter(["name", "status"]):
            if process.info["name"] in ("slurmctld", "slurmd"):
                # A zombie has ended already.
                if process.info["status"] != psutil.STATUS_ZOMBIE:
                    raise RuntimeError(f"{process.info['name']} is running here already")
        yield


def _configure(folder: Path, cpus: int, memory_mb: int, gpus: int) -> None:
    for name in ("etc", "state", "spool"):
        (folder / name).mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [free.getsockname()[1] for free in sockets]
    conf = SLURM_CONF.format(
        node=NODE,
        ports=ports,
        folder=folder,
        kill_wait=KILL_WAIT,
        cpus=cpus,
        memory_mb=memory_mb,
        gpus=gpus,
    )
    (folder / "etc/slurm.conf").write_text(conf)
    # Slurm passes a GPU to a job only if it is a character device; these are copies of /dev/null.
    devices = [folder / f"gpu{i}" for i in range(gpus)]
    for device in devices:
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (folder / "etc/gres.conf").write_text("".join(f"Name=gpu File={path}\n" for path in devices))
    key = folder / "munge.key"
    key.touch(0o400)
    key.write_bytes(os.urandom(1024))


@contextlib.contextmanager
def _installed(folder: Path) -> Iterator[None]:
    """Links /etc/slurm to our configuration; drops a link that a killed test has left there."""

    def remove() -> None:
        ETC.unlink(missing_ok=True)
        if SAVED.exists():
            SAVED.rename(ETC)

    if ETC.is_symlink() and SAVED.exists():
        remove()
    if ETC.exists():
        ETC.rename(SAVED)
    try:
        ETC.symlink_to(folder / "etc")
        yield
    finally:
        remove()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Adds the machine's own name to /etc/hosts if it cannot be resolved."""
    line = f"127.0.0.1 {NODE} # for the Slurm cluster of a test\n"
    try:
        socket.gethostbyname(NODE)
        line = ""
    except OSError:
        HOSTS.write_text(HOSTS.read_text(encoding="utf-8") + line, encoding="utf-8")
    try:
        yield
    finally:
        if line:
            HOSTS.write_text(HOSTS.read_text(encoding="utf-8").replace(line, ""), encoding="utf-8")


@contextlib.contextmanager
def _daemon(folder: Path, command: list[str]) -> Iterator[None]:
    """Runs a daemon as a child that dies with this process, even if this is killed."""
    name, *arguments = command
    command = ["setpriv", "--pdeathsig", "KILL", str(_program(name)), *arguments]
    with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
        # In a session of its own, so that Ctrl-C reaches only pytest, which stops them in order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cancel_jobs() -> None:
    """Cancels all jobs and waits for them, so that none outlives the cluster."""
    _says("scancel", "--user=root")
    with contextlib.suppress(TimeoutError):
        _wait(3 * KILL_WAIT, "all jobs to end", lambda: not _says("squeue", "--noheader"))


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _says(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else ""


def _wait(seconds: float, what: str, ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.2)
