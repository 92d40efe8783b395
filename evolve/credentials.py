"""What must never be written: passwords in a storage's URL, and the tokens and keys of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote, quote_plus, unquote

SECRET = re.compile(r"(TOKEN|KEY|PASSWORD|PASSWD|SECRET|CREDENTIALS)$", re.IGNORECASE)  # variables named so hold one
SHORTEST = 8  # letters of such a variable's value that is taken for one
USER = re.compile(r"^[a-z0-9+.-]+://[^/]*?:([^/]*)@", re.IGNORECASE)
OPTION = re.compile(r"[?&][^=&]*(?:pass|token|secret|key)[^=&]*=([^&]+)", re.IGNORECASE)


def secrets_of(storage: str | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The texts to be kept out of logs: of the storage's URL as written and as meant, and of the environment. Longer
    ones come first, since one may be a part of another."""
    written = [*USER.findall(storage or ""), *OPTION.findall(storage or "")]
    forms = {
        form for each in written for form in (each, unquote(each), quote(unquote(each)), quote_plus(unquote(each)))
    }
    held = {value for name, value in environment.items() if SECRET.search(name) and len(value) >= SHORTEST}
    return tuple(sorted((each for each in forms | held if len(each.strip()) > 2), key=len, reverse=True))
