"""Which token comes next and when a text ends, by the model's generation settings, as transformers' `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

# Settings that change nothing of greedy text, or that are read here.
HARMLESS = frozenset(
    """
    bos_token_id eos_token_id pad_token_id decoder_start_token_id max_length max_new_tokens use_cache
    do_sample temperature top_p top_k min_p top_h typical_p epsilon_cutoff eta_cutoff transformers_version
    _from_model_config cache_implementation cache_config return_dict_in_generate output_scores output_logits
    output_attentions output_hidden_states repetition_penalty renormalize_logits num_return_sequences
    compile_config disable_compile low_memory trust_remote_code num_beams length_penalty early_stopping
    """.split()  # noqa: SIM905
)
TAIL = 8  # tokens looked at beyond as many as a stop string has characters


class Stopping:
    """`penalty`: transformers' repetition penalty, or None."""

    def __init__(self, settings: GenerationConfig, tokenizer: Any) -> None:
        ids = settings.eos_token_id
        self._ids = {*(ids if isinstance(ids, (list, tuple)) else [ids]), tokenizer.eos_token_id}
        self._tokenizer = tokenizer
        self._calm: dict[tuple[str, ...], set[int]] = {}
        strength = settings.repetition_penalty
        self.penalty = None if strength in (None, 1.0) else RepetitionPenaltyLogitsProcessor(float(strength))

    def likeliest(self, logits: torch.Tensor, before: Sequence[tuple[int, ...]]) -> list[int]:
        """The next token of every row, [rows, vocabulary] -> rows; `before`: all its tokens, with a penalty."""
        if self.penalty is not None:
            longest = max(map(len, before))
            # Filled up with a token of its own, which is penalised once however often it stands there.
            filled = [[*ids, *([ids[0]] * (longest - len(ids)))] for ids in before]
            logits = self.penalty(torch.tensor(filled, device=logits.device), logits.float().clone())
        likeliest: list[int] = logits.argmax(dim=-1).tolist()
        return likeliest

    def ends(self, made: Sequence[int], stops: tuple[str, ...]) -> bool:
        """Whether a text of these new tokens is complete: its last token ends it, or it has a stop string."""
        if made[-1] in self._ids:
            return True
        met = self._may_end(made[-1], stops)
        if not met:
            self.calm(stops).add(made[-1])
            return False
        tail = self._tokenizer.decode(list(made[-(max(map(len, met)) + TAIL) :]), skip_special_tokens=False)
        return any(stop in tail for stop in met)

    def calm(self, stops: tuple[str, ...]) -> set[int]:
        """The tokens met so far that can end no text with these stop strings."""
        return self._calm.setdefault(stops, set())

    def _may_end(self, token: int, stops: tuple[str, ...]) -> tuple[str, ...]:
        """The stop strings that can be complete with this token: it has their last character, or a part of one."""
        text = self._tokenizer.decode([token], skip_special_tokens=False)
        return tuple(stop for stop in stops if stop and (stop[-1] in text or "\ufffd" in text))


def settings_of(model: Any, asked: Mapping[str, Any]) -> GenerationConfig:
    """The model's generation settings with those asked for."""
    settings = GenerationConfig.from_dict(model.generation_config.to_dict())
    for name, value in asked.items():
        setattr(settings, name, value)
    return settings


def is_plain_greedy(settings: GenerationConfig) -> bool:
    """Whether `generate` would take the likeliest token at every step, but for a repetition penalty."""
    if settings.do_sample or (settings.num_beams or 1) != 1 or (settings.num_return_sequences or 1) != 1:
        return False
    usual = GenerationConfig().to_dict()
    return all(
        value == usual.get(name) or not value for name, value in settings.to_dict().items() if name not in HARMLESS
    )
