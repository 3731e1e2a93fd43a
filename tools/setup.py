"""Create .venv with the tested packages and this project; do nothing when that is already done.

Run by every make target, with whatever Python the system has. Only the standard library is used,
and the syntax stays that of old Pythons: one that is too old must still reach the sentence that
says so. .venv is finished when it holds a stamp that fits pyproject.toml and constraints.txt;
without one (an interrupted install) it is built anew.

Environment: PIP_FLAGS, more pip options for the step that installs PyTorch.
"""

import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time

OLDEST = (3, 11)
NEEDED_GB = 4  # .venv measures 2.4 GB with the CPU build of PyTorch; pip unpacks beside it
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = ".venv"  # relative, as all paths here: the project's own path may hold spaces
PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "ovmse-setup.json")
LOCK = ".venv.lock"  # beside .venv, which may be deleted while the lock is held
LOG = "setup.log"

# What a notebook imports: when the set-up ends it is known to load, and has its bytecode.
FIRST = (
    "import torch._dynamo, ipykernel.kernelapp, papermill, analysis.demo; "
    "from ovmse.envs import make_env; make_env('2s3z').close()"
)

NO_DISK = (
    "The disk is full: the set-up needs about {0} GB (a CUDA build of PyTorch several more), "
    "so free some space and run the same command again."
).format(NEEDED_GB)
NETWORK_SIGNS = (
    "connection broken by",
    "Max retries exceeded",
    "NewConnectionError",
    "ReadTimeoutError",
    "Temporary failure in name resolution",
    "ProxyError",
)


class SetupError(Exception):
    """The set-up cannot go on; the text is one sentence for the user."""


def version():
    return "{0}.{1}.{2}".format(*sys.version_info[:3])


def digest():
    """Hash of what decides which packages are installed."""
    sha = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(name, "rb") as file:
            sha.update(file.read())
    return sha.hexdigest()


def state(chosen):
    """Say what is to be done: "ready" (nothing), "update" (pip only) or "build" (all anew).

    chosen: the user named a Python, so a .venv of another version is not good enough.
    """
    try:
        with open(STAMP) as file:
            stamp = json.load(file)
    except (IOError, OSError, ValueError):  # one and the same only since Python 3
        return "build"
    # A moved project is built anew: scripts and the editable install hold absolute paths.
    if stamp.get("root") != ROOT or not os.path.exists(PYTHON):
        return "build"
    if chosen and stamp.get("python", "").split(".")[:2] != version().split(".")[:2]:
        return "build"
    return "ready" if stamp.get("digest") == digest() else "update"


def check_machine():
    """Raise SetupError unless this Python and this disk can hold the environment."""
    if sys.version_info[:2] < OLDEST:
        raise SetupError(
            "Python {0} ({1}) is too old: this project needs Python {2}.{3} or newer, so name "
            "one, for example with: make demo PYTHON=python3.12".format(
                version(), sys.executable, *OLDEST
            )
        )
    import importlib.util  # here, because Python 2 lacks it

    # Debian packs ensurepip, which venv needs, apart from Python itself.
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        raise SetupError(
            "Python {0} ({1}) cannot create virtual environments: install its venv module "
            "(on Debian and Ubuntu: apt install python3-venv) or name another Python, for "
            "example with: make demo PYTHON=python3.12".format(version(), sys.executable)
        )
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB:
        raise SetupError(
            "Only {0:.1f} GB are free on the disk of {1}: the set-up needs about {2} GB (a CUDA "
            "build of PyTorch several more), so free some space and run the same command "
            "again.".format(free, ROOT, NEEDED_GB)
        )


def explain(lines):
    """Turn the output of a failed command into one sentence."""
    text = "\n".join(lines)
    if "No space left on device" in text:
        return NO_DISK
    errors = [line.strip() for line in lines if line.strip().startswith("ERROR")]
    last = (errors or lines or ["no output"])[-1]
    if any(sign in text for sign in NETWORK_SIGNS):
        return (
            "The packages could not be downloaded (pip: {0}): check the network, or the proxy and "
            "index settings of pip, and run the same command again.".format(last)
        )
    return "The packages could not be installed (last message: {0}); {1} has the rest.".format(
        last, LOG
    )


def run(command):
    """Run one command; on a terminal show its current line, on failure raise SetupError."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
    )
    lines = []
    shown = sys.stderr.isatty()
    for line in process.stdout:
        lines.append(line.rstrip())
        if shown:
            width = shutil.get_terminal_size().columns - 4
            sys.stderr.write("\r\033[K  " + lines[-1].strip()[:width])
            sys.stderr.flush()
    if shown:
        sys.stderr.write("\r\033[K")
    if process.wait() != 0:
        sentence = explain(lines)
        if sentence != NO_DISK:
            with open(LOG, "w") as file:
                file.write("\n".join(lines) + "\n")
        raise SetupError(sentence)


def pin(package):
    """Return the line of constraints.txt that pins the package."""
    with open("constraints.txt") as file:
        return next(line.strip() for line in file if line.startswith(package + "=="))


def index():
    """Return uv's options for pip's index, if one is set: uv reads none of pip's settings."""
    listed = subprocess.check_output([PYTHON, "-m", "pip", "config", "list"], text=True)
    found = [line.split("=", 1)[1] for line in listed.splitlines() if ".index-url=" in line]
    return ["--default-index", found[-1].strip("'\"")] if found else []


def install(todo):
    """Bring .venv up to date; the stamp is removed first and written last."""
    if todo == "build":
        check_machine()
        say("Creating .venv with Python {0} ...".format(version()))
        if os.path.exists(STAMP):
            os.remove(STAMP)
        run([sys.executable, "-m", "venv", "--clear", VENV])
    else:
        os.remove(STAMP)
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    # Most files are never imported; those that are get their bytecode below or at first use.
    pip.append("--no-compile")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # PyTorch first and alone: PIP_FLAGS may name an index that holds nothing else.
    say("Installing PyTorch (1 of 2) ...")
    run(pip + ["--no-deps"] + shlex.split(os.environ.get("PIP_FLAGS", "")) + [pin("torch")])
    say("Installing the other packages and this project (2 of 2) ...")
    rest = ["-c", "constraints.txt", "-e", ".[test]"]
    try:  # uv takes 20 s where pip takes minutes
        run(pip + [pin("uv")])
        run([PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON] + index() + rest)
    except SetupError:  # no uv for this machine, or packages lie where only pip's settings point
        run(pip + rest)
    say("Importing them for the first time ...")
    run([PYTHON, "-c", FIRST])
    python = subprocess.check_output(
        [PYTHON, "-c", "import platform; print(platform.python_version())"],
        universal_newlines=True,
    )
    with open(STAMP + ".part", "w") as file:
        json.dump({"digest": digest(), "python": python.strip(), "root": ROOT}, file)
    os.replace(STAMP + ".part", STAMP)
    if os.path.exists(LOG):  # of an earlier, failed set-up
        os.remove(LOG)


def say(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def setup(chosen):
    """Do what is needed, one process at a time."""
    if state(chosen) == "ready":
        return
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (IOError, OSError):
            say("Another set-up of this project is running; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        todo = state(chosen)
        if todo == "ready":
            return
        start = time.time()
        install(todo)
        say("Set-up finished in {0:.0f} s.".format(time.time() - start))


def main(arguments):
    os.chdir(ROOT)
    try:
        setup("--chosen" in arguments)
    except SetupError as error:
        say(str(error))
    except KeyboardInterrupt:
        say("\nThe set-up was interrupted; the next run starts it anew.")
    except (IOError, OSError) as error:
        if error.errno == errno.ENOSPC:
            say(NO_DISK)
        else:
            say("The set-up failed in {0}: {1}.".format(ROOT, error))
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
