"""Models of many architectures, random and tiny: each is scored alike with and without shared prefixes, or is found
out not to bear them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers

from tasks.forward import Forward
from tasks.likelihood import Likelihood, Likelihoods
from tasks.memory import Allowance
from tasks.reach import reach_of
from tasks.sharing import bears_sharing

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
          "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32,
          "num_key_value_heads": 4}  # fmt: skip
SHARING: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "Gemma3Text": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "GPT2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512},
    "GPTNeoX": {},
    "OPT": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "Mixtral": {"num_local_experts": 4},
    "Phi3": {},
    "Cohere": {},
    "Granite": {},
    "DeepseekV3": LATENT,
    "GptOss": {"num_local_experts": 4, "head_dim": 16},
}
PLAIN: dict[str, dict[str, Any]] = {
    "Bloom": {"n_layer": 3, "n_head": 4},  # positions by distance in the row
    "Mpt": {"d_model": 64, "n_layers": 3, "n_heads": 4, "max_seq_len": 512},
    "GPTNeo": {"attention_types": [[["local"], 3]], "num_layers": 3, "num_heads": 4},  # a window of places
    "Mamba": {},  # recurrent
    "Rwkv": {"attention_hidden_size": 64},
    "Jamba": {"use_mamba_kernels": False, "num_experts": 2},
}


def build(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **settings})
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def requests() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """12 documents behind one stretch of 40 tokens, 4 answers each."""
    drawn = random.Random(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(97) for _ in range(count))

    shared = tokens(40)
    contexts = [shared + tokens(drawn.randrange(5, 15)) for _ in range(12)]
    return [(context, tokens(drawn.randrange(1, 5))) for context in contexts for _ in range(4)]


def asked(model: Any, share: bool, limit: int = 512) -> list[Likelihood]:
    return Likelihoods(requests(), max_length=512, share=share).ask(Forward(model), Allowance(limit))


def one_by_one(model: Any) -> list[tuple[float, bool]]:
    """The answers of one pass a request, with the whole head."""
    found = []
    for given, continuation in requests():
        logits = model(torch.tensor([given + continuation]), use_cache=False).logits[0, len(given) - 1 : -1]
        scores = logits.log_softmax(dim=-1)
        wanted = torch.tensor(continuation)
        greedy = bool((scores.argmax(dim=-1) == wanted).all())
        found.append((float(scores.gather(1, wanted[:, None]).sum()), greedy))
    return found


@pytest.mark.parametrize("name", [*SHARING, *PLAIN])
@pytest.mark.filterwarnings("ignore")  # of model code that looks for kernels
def test_shared_or_plain_the_answers_are_the_models_own(name: str) -> None:
    model = build(name, **(SHARING | PLAIN)[name])
    assert bears_sharing(model) == (name in SHARING)
    truth = one_by_one(model)
    assert len({round(total, 3) for total, _ in truth}) > 40, "the check would be empty"
    for share in (False, True) if name in SHARING else (False,):
        for found, (total, greedy) in zip(asked(model, share), truth, strict=True):
            assert found.total == pytest.approx(total, abs=1e-4)
            assert found.greedy == greedy


def test_sharing_saves_tokens() -> None:
    model = build("Llama")
    forward = Forward(model)
    Likelihoods(requests(), max_length=512, share=True).ask(forward, Allowance(512))
    shared, forward.tokens = forward.tokens, 0
    Likelihoods(requests(), max_length=512, share=False).ask(forward, Allowance(512))
    assert forward.tokens > 4 * shared


def test_in_bfloat16_the_trial_tells_rounding_from_mistakes() -> None:
    for name, settings in (("Llama", {}), ("Mpt", PLAIN["Mpt"])):
        assert bears_sharing(build(name, **settings).to(torch.bfloat16)) == (name == "Llama")


def test_a_window_of_attention_bounds_what_can_be_shared() -> None:
    assert reach_of(build("Mistral", sliding_window=40)).shareable == 40
    assert reach_of(build("Qwen2", sliding_window=40, use_sliding_window=False)).shareable is None
    assert reach_of(build("Llama")).shareable is None


@pytest.mark.parametrize(("name", "rope"), [
    ("Llama", {"rope_type": "dynamic", "factor": 4.0}),
    ("Phi3", {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [3.0] * 8}),
])  # fmt: skip
def test_positions_that_depend_on_the_longest_are_not_mixed(name: str, rope: dict[str, Any]) -> None:
    model = build(
        name,
        max_position_embeddings=64 if name == "Llama" else 512,
        rope_parameters={"rope_theta": 10000.0, "original_max_position_embeddings": 64, **rope},
        **({"original_max_position_embeddings": 64} if name == "Phi3" else {}),
    )
    assert reach_of(model).rope == 64
    drawn = random.Random(5)
    shared = tuple(drawn.randrange(97) for _ in range(40))
    asked = [(shared + tuple(drawn.randrange(97) for _ in range(size)), (1, 2)) for size in (3, 8, 15, 40, 90, 10)]
    found = Likelihoods(asked, max_length=512, share=True, reach=reach_of(model)).ask(Forward(model), Allowance(512))
    for (given, continuation), each in zip(asked, found, strict=True):
        ids = torch.tensor([(given + continuation)[:-1]])  # the last token, only predicted, is not in the pass
        scores = model(ids, use_cache=False).logits[0, len(given) - 1 :].log_softmax(dim=-1)
        total = float(scores.gather(1, torch.tensor(continuation)[:, None]).sum())
        assert each.total == pytest.approx(total, abs=1e-4)


class Headless(torch.nn.Module):
    """A model whose code does not call its head as a module."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.head, self.config = model.model, model.lm_head, model.config

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head

    def forward(self, **keywords: Any) -> Any:
        hidden = self.model(**keywords).last_hidden_state
        logits = torch.nn.functional.linear(hidden, self.head.weight)
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


def test_a_head_that_is_not_called_as_a_module_is_found_out() -> None:
    model = build("Llama")
    truth = one_by_one(model)
    for share in (False, True):
        for found, (total, _) in zip(asked(Headless(model), share), truth, strict=True):
            assert found.total == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("limit", [32, 50, 100, 4096])
def test_the_size_of_passes_changes_no_answer(limit: int) -> None:
    model = build("Llama")
    for found, (total, _) in zip(asked(model, True, limit), one_by_one(model), strict=True):
        assert found.total == pytest.approx(total, abs=1e-4)


def test_passes_shrink_when_memory_runs_out_and_no_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    model, allowance = build("Llama"), Allowance(512)
    plain, passes = Forward.logits, []

    def scarce(self: Forward, batch: Any, trunk: Any) -> Any:
        if batch.tokens.numel() > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        passes.append(batch)
        return plain(self, batch, trunk)

    monkeypatch.setattr(Forward, "logits", scarce)
    likelihoods = Likelihoods(requests(), max_length=512, share=True)
    for _ in range(2):
        found = likelihoods.ask(Forward(model), allowance)
        assert [each.total for each in found] == pytest.approx([total for total, _ in one_by_one(model)], abs=1e-4)
        assert allowance.tokens <= 128
    monkeypatch.setattr(Forward, "logits", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError, match="does not fit into memory"):
        likelihoods.ask(Forward(model), allowance)
