"""Chat templates: a recipe's `chat_template` as the text that transformers reads from chat_template.jinja.

The built-in ones follow the published prompt formats of Alpaca (github.com/tatsu-lab/stanford_alpaca), ChatML
(OpenAI), EXAONE 3 (LG AI Research), Llama 3 (Meta) and Mistral Instruct v1 (Mistral AI).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import shown
from engine.lookup import nearest

_SHORTEST = 20
_LONGEST = 1 << 20
"""Letters of a template; those of real models have some ten thousand."""
_JINJA, _CONFIG, _PROCESSOR = "chat_template.jinja", "tokenizer_config.json", "chat_template.json"

ALPACA = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{ message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'user' -%}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'assistant' -%}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Response:\\n' }}{%- endif -%}
"""
CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
EXAONE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}{{ '[|system|][|endofturn|]\\n' }}{%- endif -%}
{{ '[|' + message['role'] + '|]' + message['content'] }}
{%- if message['role'] == 'user' -%}{{ '\\n' }}{%- else -%}{{ '[|endofturn|]\\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '[|assistant|]' }}{%- endif -%}
"""
LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}
"""
MISTRAL = """\
{{- bos_token -}}
{%- set pending = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{%- set pending.system = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{ '[INST] ' + pending.system + message['content'] + ' [/INST]' }}{%- set pending.system = '' -%}
{%- elif message['role'] == 'assistant' -%}{{ ' ' + message['content'] + eos_token }}
{%- endif -%}
{%- endfor -%}
"""
BUILT_IN: dict[str, str] = {
    "alpaca": ALPACA,
    "chatml": CHATML,
    "exaone": EXAONE,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
}


def check_chat_template(value: str) -> str:
    """Return `auto`, the name of a built-in template, or a whole template. Raises ValueError for anything else."""
    names = ["auto", *BUILT_IN]
    if value in names:
        return value
    if "{" not in value or len(value) < _SHORTEST:
        raise ValueError(
            f"{shown(value)} is no chat template{nearest(value, names)} (known: {', '.join(names)}; or Jinja of at"
            f" least {_SHORTEST} characters)"
        )
    if len(value) > _LONGEST:
        raise ValueError(f"a chat template of {len(value)} letters is longer than {_LONGEST}; give the model's own")
    _check_syntax(value)
    return value


def _check_syntax(text: str) -> None:
    """Raise ValueError for what is no Jinja. Of its constants nothing is worked out: `'a' * 10**10` would be."""
    from jinja2 import TemplateSyntaxError, nodes  # not needed by most recipes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """transformers' {% generation %} marks an assistant's words; here it only has to be closed."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Environment(ImmutableSandboxedEnvironment):
        """Works out no operation on constants, nor, where `volatile`, a filter of them."""

        intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    environment = Environment(extensions=[Generation, loopcontrols])
    try:
        parsed = environment.parse(text)
        parsed.body.insert(0, nodes.EvalContextModifier([nodes.Keyword("volatile", nodes.Const(True))], lineno=1))
        environment.compile(parsed)
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno} of the chat template: {error.message}; mend its Jinja") from None
    except (RecursionError, MemoryError, SyntaxError):  # of Jinja's parser, Python's parser and Python's blocks
        raise ValueError("the chat template is nested too deeply; write it flatter") from None


def own_template(folder: Path) -> str | None:
    """Return the chat template beside a model's weights, the default one where it has several; None without one."""
    path = folder / _JINJA
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    for name in (_CONFIG, _PROCESSOR):
        template = _read(folder / name).get("chat_template")
        if isinstance(template, list):  # [{name, template}, ...]
            named = {str(item.get("name")): item.get("template") for item in template if isinstance(item, dict)}
            template = named.get("default")
        if isinstance(template, str):
            return template
    return None


def choose_template(wanted: str, folders: Sequence[Path]) -> str | None:
    """Return the template that a recipe asks for; for `auto` the one most of the models have, the first among equals.

    None where `auto` finds none.
    """
    if wanted != "auto":
        return BUILT_IN.get(wanted, wanted)
    own = [template for folder in folders if (template := own_template(folder)) is not None]
    return Counter(own).most_common(1)[0][0] if own else None


def template_files(template: str, donor: Path, files: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """Return `files` with the template in them; of the tokenizer's own files nothing else changes."""
    changed: dict[str, bytes | None] = {**files, _JINJA: _encoded(template)}
    if (donor / _PROCESSOR).is_file():
        changed[_PROCESSOR] = None  # it holds the donor's template and nothing more
    replaced = files.get(_CONFIG)
    config = json.loads(replaced) if replaced else _read(donor / _CONFIG)
    if "chat_template" in config:  # where readers that know no .jinja file look
        changed[_CONFIG] = _encoded(json.dumps(config | {"chat_template": template}, indent=2, ensure_ascii=False))
    return changed


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")  # JSON can hold half a letter, which no file in UTF-8 can


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # absent, or broken: whoever loads the tokenizer says so
    return content if isinstance(content, dict) else {}
