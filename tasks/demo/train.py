"""Train the demo family: one small Llama base and five fine-tunes of it, and write models, documents and task files.

    python tasks/demo/train.py            # into tasks/demo/, about ten minutes on two cores
    python tasks/demo/train.py --out DIR  # somewhere else

The fine-tunes differ in what people's fine-tunes differ in: full or low-rank, on all linear layers or on some, their
learning rate and length, and whether some of the base's data is replayed. So a single strength for all of them is a
poor compromise. The result is the same from run to run on one kind of machine with one version of torch.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from skills import BOS, EOS, PAD, SKILLS, UNKNOWN, VOCABULARY, Document, Stream, heldout
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

HERE = Path(__file__).resolve().parent
TOKEN_IDS: Mapping[str, int] = {token: index for index, token in enumerate(VOCABULARY)}
BATCH = 64


@dataclass(frozen=True)
class Training:
    """How one model is trained.

    `mixture` gives each skill's share of the documents. `rank` None trains all weights; else low-rank adapters of
    that rank on the linear layers of `parts` ("self_attn", "mlp"), merged into the weights afterwards.
    """

    mixture: Mapping[str, float]
    steps: int
    learning_rate: float
    seed: int
    rank: int | None = None
    parts: tuple[str, ...] = field(default=("self_attn", "mlp"))


def one_skill(skill: str, replay: float = 0.0) -> dict[str, float]:
    """A mixture of one skill, and of each other skill with the share `replay` where it is above zero."""
    return {name: 1.0 if name == skill else replay for name in SKILLS if name == skill or replay > 0}


BASE = Training({"reverse": 1.1, "sort": 0.7, "shift": 0.8, "pick": 1.0, "second": 0.9}, 290, 2e-3, seed=0)
FINE_TUNES: Mapping[str, Training] = {
    "reverse": Training(one_skill("reverse", replay=0.04), 120, 1e-3, seed=1),
    "sort": Training(one_skill("sort", replay=0.04), 100, 2e-3, seed=2, rank=8),
    "shift": Training(one_skill("shift", replay=0.03), 100, 3e-3, seed=3, rank=4, parts=("mlp",)),
    "pick": Training(one_skill("pick"), 100, 3e-3, seed=4, rank=8, parts=("self_attn",)),
    "second": Training(one_skill("second"), 120, 3e-3, seed=5, rank=8),
}


def untrained(seed: int) -> LlamaForCausalLM:
    """The architecture with fresh weights: under one million parameters, embeddings tied to the head."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=TOKEN_IDS[PAD],
        bos_token_id=TOKEN_IDS[BOS],
        eos_token_id=TOKEN_IDS[EOS],
    )
    return LlamaForCausalLM(config)


class LowRank(nn.Module):
    """A linear layer with a trained low-rank addition: W + B A, W frozen (LoRA, Hu et al. 2021, with scale 1)."""

    def __init__(self, linear: nn.Linear, rank: int, seed: int) -> None:
        super().__init__()
        self.linear = linear
        draws = torch.Generator().manual_seed(seed)
        width = linear.in_features
        self.down = nn.Parameter(torch.randn(rank, width, generator=draws) / math.sqrt(width))
        self.up = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(inputs, self.linear.weight + self.up @ self.down)

    def merged(self) -> nn.Linear:
        """The plain layer with the addition in its weights."""
        self.linear.weight.data += (self.up @ self.down).detach()
        return self.linear


def tensors(documents: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids `[documents, tokens]`, padded on the right, and which of them are to be learnt: answer and end."""
    rows = [[TOKEN_IDS[c] for c in d.prompt + d.answer] + [TOKEN_IDS[EOS]] for d in documents]
    ids = torch.full((len(rows), max(map(len, rows))), TOKEN_IDS[PAD])
    learnt = torch.zeros_like(ids, dtype=torch.bool)
    for index, (row, document) in enumerate(zip(rows, documents, strict=True)):
        ids[index, : len(row)] = torch.tensor(row)
        learnt[index, len(document.prompt) : len(row)] = True
    return ids, learnt


def rate(step: int, training: Training) -> float:
    """Learning rate: 20 steps of warm-up, then half a cosine down to a tenth."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / training.steps))
    return training.learning_rate * min(1.0, (step + 1) / 20) * (0.1 + 0.9 * cosine)


def fit(model: LlamaForCausalLM, training: Training, batch: Callable[[int], list[Document]] | None = None) -> None:
    """Train those weights of `model` that require a gradient, in place, on `batch(size)` or the mixture's documents."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    decay = 0.01 if training.rank is None else 0.0
    optimizer = torch.optim.AdamW(weights, lr=training.learning_rate, weight_decay=decay, betas=(0.9, 0.98))
    batch = batch or Stream(training.mixture, training.seed).batch
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, training)
        ids, learnt = tensors(batch(BATCH))
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        asked = learnt[:, 1:]
        loss = nn.functional.cross_entropy(logits[asked], ids[:, 1:][asked])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()


def attach(model: LlamaForCausalLM, training: Training, rank: int) -> list[tuple[nn.Module, str, LowRank]]:
    """Freeze `model` and put a `LowRank` in place of each linear layer of the parts trained; returns where."""
    model.requires_grad_(False)
    places: list[tuple[nn.Module, str, LowRank]] = []
    for layer in model.model.layers:
        for part_name in training.parts:
            part = getattr(layer, part_name)
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    adapter = LowRank(linear, rank, training.seed * 1000 + len(places))
                    setattr(part, name, adapter)
                    places.append((part, name, adapter))
    return places


def fine_tune(
    base: Mapping[str, torch.Tensor], training: Training, batch: Callable[[int], list[Document]] | None = None
) -> LlamaForCausalLM:
    """A model that starts from the weights `base` and is trained as told, on `batch(size)` where that is given."""
    model = untrained(training.seed)
    model.load_state_dict(dict(base))
    if training.rank is None:
        fit(model, training, batch)
        return model
    places = attach(model, training, training.rank)
    fit(model, training, batch)
    for part, name, adapter in places:
        setattr(part, name, adapter.merged())
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; nothing is added before or after, so a prompt's tokens are its characters."""
    backend = Tokenizer(models.WordLevel(dict(TOKEN_IDS), unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=64,
        clean_up_tokenization_spaces=False,
    )


def write_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Save `model` in bfloat16 with its tokenizer and greedy generation settings."""
    model.requires_grad_(True).to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=TOKEN_IDS[BOS],
        eos_token_id=TOKEN_IDS[EOS],
        pad_token_id=TOKEN_IDS[PAD],
    )
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def write_documents(skill: str, path: Path) -> None:
    """Write a skill's held-out documents as JSON lines."""
    with path.open("w", encoding="utf-8") as lines:
        for document in heldout(skill):
            row: dict[str, object] = {"prompt": document.prompt, "answer": document.answer}
            if document.choices:
                row["choices"] = list(document.choices)
            lines.write(json.dumps(row) + "\n")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Train the demo family.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to (default: tasks/demo)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads; the shipped files were made with 1")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(parsed.threads)
    torch.use_deterministic_algorithms(True)
    disable_progress_bar()
    out: Path = parsed.out
    out.mkdir(parents=True, exist_ok=True)
    for skill in SKILLS:
        write_documents(skill, out / f"demo_{skill}.jsonl")
    base = untrained(BASE.seed)
    fit(base, BASE)
    # The fine-tunes start from what is shipped, so the base is rounded to bfloat16 first.
    shipped = {name: weight.bfloat16().float() for name, weight in base.state_dict().items()}
    write_model(base, out / "models" / "base")
    for name, training in FINE_TUNES.items():
        print(f"training {name}", flush=True)
        write_model(fine_tune(shipped, training), out / "models" / name)


if __name__ == "__main__":
    main(sys.argv[1:])
