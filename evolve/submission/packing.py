"""What `evolve submit` sends to a cluster: one archive with the configuration, the task files and the first step.

The configuration in it is rewritten for the other side: task folders are those of the archive, local models have
absolute paths, a relative `run.output` is taken from the home folder there (as scp does), and the address is the
cluster's own. Whoever can reach a cluster can read such an archive: nothing secret may be in it.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from engine.errors import EngineError
from engine.reference import HUB_ID, Location, parse_reference
from evolve.config.search_yaml import SearchConfig
from evolve.credentials import secrets_of
from evolve.errors import ConfigError
from evolve.submission import job_start
from evolve.submission.task_files import TaskFiles, place, task_files

LARGEST = 256 * 2**20  # bytes: the cluster's head holds it in memory
FIRST_STEP, SEARCH = "job_start.py", "search.yaml"
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
RELATIVE = re.compile(r"sqlite(\+\w+)?:///(?!/)|journal:(?!/)")
EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """The archive's files, and what is to be said of them before they are sent."""

    config: SearchConfig  # as it is sent
    contents: Mapping[str, bytes]
    warnings: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of what makes the run another one, not of the program that starts it."""
        parts = [f"{name} {hashlib.sha256(self.contents[name]).hexdigest()}" for name in sorted(self.contents)]
        return hashlib.sha256("\n".join(each for each in parts if not each.startswith(FIRST_STEP)).encode()).hexdigest()

    def write(self, path: Path, more: Mapping[str, bytes]) -> None:
        """Write the archive, with further files; the same contents give the same bytes."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted({**self.contents, **more}.items()):
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.external_attr = 0o644 << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, data)


def package_of(config: SearchConfig) -> Package:
    """Everything that the run needs there, but for models. Raises ConfigError for what cannot or must not be sent."""
    check_storage(config.run.storage)
    found = task_files(config.score.include)
    check_size(found)
    sent = rewritten(config)
    text = yaml.safe_dump(sent.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    contents = {
        **{where: packed(where, path, found) for where, path in found.files.items()},
        SEARCH: text.encode(),
        FIRST_STEP: Path(job_start.__file__).read_bytes(),
    }
    check_secrets(contents)
    return Package(sent, contents, tuple(warnings_of(config, found)))


def rewritten(config: SearchConfig) -> SearchConfig:
    """The configuration as it is true on the cluster."""
    models = config.models.model_copy(
        update={"base": model_there(config.models.base), "sources": tuple(map(model_there, config.models.sources))}
    )
    run = config.run.model_copy(update={"address": "auto", "output": output_there(config.run.output)})
    score = config.score
    if score.include:
        score = score.model_copy(update={"include": tuple(place(Path(folder)) for folder in score.include)})
    return config.model_copy(update={"models": models, "run": run, "score": score})


def model_there(name: str) -> str:
    """A local folder by its absolute path, which means the same from every working folder; others as they are."""
    reference = located_reference(name)
    if reference is None:
        return name
    return "+".join(absolute(part) for part in reference)


def located_reference(name: str) -> list[Location] | None:
    try:
        reference = parse_reference(name)
    except EngineError:
        return None  # the run's own check says what is wrong with it
    return [reference.model, *([reference.adapter] if reference.adapter else [])]


def absolute(part: Location) -> str:
    name = str(Path(part.name).absolute()) if is_here(part) and not part.name.startswith("~") else part.name
    return f"{name}@{part.revision}" if part.revision else name


def is_here(part: Location) -> bool:
    return Path(part.name).expanduser().is_dir()


def is_path(name: str) -> bool:
    """Whether a folder must be meant: it is no id of the Hub, or begins with a folder that is here."""
    return not HUB_ID.match(name) or ("/" in name and Path(name).parts[:1] != () and Path(Path(name).parts[0]).is_dir())


def output_there(output: str) -> str:
    """Absolute paths and those from a home folder as they are; relative ones from the home folder there."""
    if output.startswith(("/", "~")):
        return output
    return str(PurePosixPath("~", output))


def warnings_of(config: SearchConfig, found: TaskFiles) -> list[str]:
    """What the sender should know: whether the cluster has these folders cannot be seen from here."""
    named = [part for name in (config.models.base, *config.models.sources) for part in located_reference(name) or ()]
    folders = dict.fromkeys(absolute(part) for part in named if is_here(part))
    told = []
    if folders:
        told.append(f"models: {', '.join(folders)} are folders here; every machine of the cluster needs them there too")
    nowhere = dict.fromkeys(part.name for part in named if not is_here(part) and is_path(part.name))
    if nowhere:
        named_here = ", ".join(nowhere)
        told.append(f"models: there is no folder {named_here} here; every machine of the cluster needs it at that path")
    if found.checkpoints:
        told.append(f"score.include: checkpoints are not sent: {', '.join(map(str, found.checkpoints))}")
    return told


def packed(where: str, path: Path, found: TaskFiles) -> bytes:
    if where in found.texts:
        return found.texts[where].encode()
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"score.include ({path}): cannot be read ({error.strerror}); make it readable") from error


def check_size(found: TaskFiles) -> None:
    """Raises ConfigError for more than LARGEST."""
    sizes = {path: path.stat().st_size for path in found.files.values()}
    whole = sum(sizes.values())
    if whole > LARGEST:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise ConfigError(
            f"score.include: holds {whole / 2**20:.0f} MiB, at most {LARGEST / 2**20:.0f} are sent; the largest are "
            f"{named}; move what no task needs, or put data where the cluster reads it"
        )


def check_storage(storage: str | None) -> None:
    """Raises ConfigError for a storage that means another place on the cluster, or whose URL holds a secret."""
    if storage is None:
        return
    if secrets_of(storage, {}):
        raise ConfigError(
            "run.storage: its URL holds a password, which everybody who reaches the cluster could read; leave it out, "
            "and put it on the cluster's head into ~/.pgpass (PostgreSQL) or into an option file "
            "(MySQL: ?read_default_file=/path/my.cnf) that only the user of Ray can read"
        )
    if RELATIVE.match(storage):
        raise ConfigError(
            f"run.storage ({storage}): is a path from the working folder, which a job has none of; give an absolute "
            "path on the cluster, or null for study.db beside the results"
        )


def check_secrets(contents: Mapping[str, bytes]) -> None:
    """Raises ConfigError where a file holds a Hub token, or a secret of this process's environment."""
    known = [secret.encode() for secret in secrets_of(None)]
    for name, data in contents.items():
        if any(secret in data for secret in known) or TOKEN.search(data.decode("utf-8", "ignore")):
            raise ConfigError(
                f"{name.removeprefix('packed/here/')}: holds a token or password, which everybody who reaches the "
                "cluster could read; take it out, and set HF_TOKEN where the cluster's machines start Ray"
            )


def summary(package: Package) -> dict[str, Any]:
    """For the job's metadata: what finds the run again. Nothing of it is secret."""
    return {"evolve-run": package.config.name, "evolve-digest": package.digest,
            "evolve-output": str(PurePosixPath(package.config.run.output, package.config.name))}  # fmt: skip
