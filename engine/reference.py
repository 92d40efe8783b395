"""Names of models: `path|org/name[@revision][+adapter[@revision]]`, and the folders they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from engine.errors import CheckpointError

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
_FILES = ["*.json", "model*.safetensors", "adapter_model.safetensors", "*.model", "*.txt", "*.jinja", "*.py"]
_PICKLED_FILES = ["pytorch_model*.bin", "adapter_model.bin"]


@dataclass(frozen=True)
class Location:
    """A folder or a Hub repository, with the revision that was asked for."""

    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Reference:
    """A model, and the adapter that is added to it."""

    model: Location
    adapter: Location | None = None


def parse_reference(text: str) -> Reference:
    """Read a model's name. A local folder that exists wins, whatever `@` and `+` its name holds.

    Raises CheckpointError for a second adapter or revision.
    """
    if _is_folder(text) or "+" not in text:
        return Reference(_location(text, text))
    splits = [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "+"]
    for model, adapter in splits:
        if _is_folder(model) and (_is_folder(adapter) or len(splits) == 1):
            return Reference(Location(model), _location(adapter, text))
    if len(splits) > 1:
        raise CheckpointError(f"{text}: more than one `+`; a model takes one adapter, as in BASE+ADAPTER")
    return Reference(_location(splits[0][0], text), _location(splits[0][1], text))


def _location(part: str, text: str) -> Location:
    if _is_folder(part):
        return Location(part)
    name, *revision = part.split("@")
    if len(revision) > 1:
        raise CheckpointError(f"{text}: more than one `@`; write NAME@REVISION")
    if not name or (revision and not revision[0]):
        raise CheckpointError(f"{text}: names no model or revision; write NAME, NAME@REVISION or BASE+ADAPTER")
    return Location(name, revision[0] if revision else None)


def _is_folder(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, a folder that is closed to us; `~nobody`; a null byte
        return False


def resolve(location: Location, *, token: str | None = None) -> Path:
    """Return the folder with the model's files, downloaded from the Hub when there is no such local folder.

    Only configuration, tokenizer, code and weights are fetched, of the latter safetensors where there are any; the code
    is not run here. Raises
    CheckpointError naming the model.
    """
    name = location.name
    if _is_folder(name):
        if location.revision:
            raise CheckpointError(f"{name}@{location.revision}: a local folder has no revisions; leave `@` away")
        return Path(name).expanduser()
    if not HUB_ID.match(name):
        raise CheckpointError(f"{name}: no such folder; give the folder of a model, or an id of the Hub")
    return _download(location, token)


def _download(location: Location, token: str | None) -> Path:
    """Fetch a snapshot; .bin files only where it holds no safetensors."""
    folder = _snapshot(location, location.revision, _FILES, token)
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(location, folder.name, _PICKLED_FILES, token)
    return folder


def _snapshot(location: Location, revision: str | None, files: list[str], token: str | None) -> Path:
    import huggingface_hub  # heavy, and not needed for local folders

    asked = location.name + (f"@{location.revision}" if location.revision else "")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                location.name,
                revision=revision,
                allow_patterns=files,
                ignore_patterns=["*/*"],
                token=token,
            )
        )
    except Exception as error:
        # The client raises its own classes, those of its HTTP library (another one in each major version) and
        # OSError; for the user all of them mean that this model could not be had.
        reason = shorten(_without_secrets(str(error), token), 200, placeholder=" ...") or type(error).__name__
        raise CheckpointError(
            f"{asked}: no such folder, and not to be had from the Hub ({type(error).__name__}: {reason}); check the"
            " spelling, the network or HF_HUB_OFFLINE, and for gated models the token"
        ) from None


def _without_secrets(text: str, token: str | None) -> str:
    """Leave away tokens, and passwords in addresses of proxies and endpoints."""
    text = text.replace(token, "<token>") if token else text
    return re.sub(r"//[^/@\s]+@", "//", re.sub(r"\bhf_\w{8,}", "<token>", text))
