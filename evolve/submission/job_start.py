"""The first step of a submitted run, on the cluster: find the Python that the workers use, see that `evolve` is in it.

It is sent along and run by whatever Python the head has, so it imports nothing but the standard library and keeps to
syntax of Python 3.7. The job's command names no environment: where Ray was started from one that is not on the PATH,
only the process of the node (raylet) knows it.
"""

import json
import os
import subprocess
import sys

SETTINGS = "RAY_JOB_CONFIG_JSON_ENV_VAR"
SUBMITTED = "EVOLVE_SUBMITTED"  # as evolve/command.py reads it
OPTION = "--python_worker_command="
FOUND = """
import importlib.metadata, importlib.util, sys
if importlib.util.find_spec("evolve") is None:
    sys.exit(3)
try:
    print(importlib.metadata.version("merge-evolve"))
except importlib.metadata.PackageNotFoundError:
    print("of unknown version")
"""


def main(version: str, environment: str) -> None:
    """`version` is the client's; `environment`: cluster (the workers' Python), job (the one that runs this, for which
    Ray made an environment), or the path of another one, which the workers then use as well."""
    python = environment
    if environment in ("cluster", "job"):
        python = worker_python() if environment == "cluster" else sys.executable
    try:
        asked = subprocess.run([python, "-c", FOUND], stdout=subprocess.PIPE, text=True, cwd="/")
        what = {0: "", 3: "merge-evolve is not installed in it"}.get(asked.returncode, "it cannot be run")
    except OSError as error:
        what = f"it cannot be run ({error.strerror})"
    if what:
        print(
            f"error: environment ({python} on the cluster): {what}; install it on every machine of the cluster, or "
            "submit with --env PATH or --pip merge-evolve"
        )
        sys.exit(2)
    there = asked.stdout.split("\n")[0]
    if there != version:
        print(f"warning: merge-evolve is {there} on the cluster, {version} where it was submitted")
    if python == environment:
        use_for_workers(python)
    sys.stdout.flush()
    os.environ[SUBMITTED] = "1"
    os.execv(python, [python, "-m", "evolve", "run", "search.yaml"])


def use_for_workers(python: str) -> None:
    """Ray hands a job's settings to its process in this variable; workers take their environment from them."""
    settings = json.loads(os.environ.get(SETTINGS) or "{}")
    settings.setdefault("runtime_env", {})["py_executable"] = python
    os.environ[SETTINGS] = json.dumps(settings)


def worker_python() -> str:
    """The interpreter of this node's workers, from the command line of the raylet above this process."""
    process = os.getpid()
    while process > 1:
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:
                words = file.read().decode("utf-8", "replace").split("\0")
            for word in words:
                if word.startswith(OPTION):
                    return word[len(OPTION) :].split(" ")[0]
            with open(f"/proc/{process}/stat") as file:
                process = int(file.read().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            break
    return sys.executable


if __name__ == "__main__":
    main(*sys.argv[1:])
