"""Whether a model bears that shared prefixes are evaluated once: asked of the model itself, not of a list of names.

Attention with a mask of our own, positions of our own and kept keys and values has to give what plain passes give.
Recurrent layers, positions that follow from the order of the tokens, and model code that ignores what it is given do
not, and are found out by the difference. A window of attention cannot be seen in a short trial; it stands in the
configuration.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch

from tasks.batch import Batch, Target, batches_of
from tasks.continuing import Continuing
from tasks.forward import Answers, Forward, KeysValues
from tasks.passes import Pass, Row
from tasks.tree import token_tree

# Of what another prefix changes, sharing may change this part: rounding changes less, a wrong position or mask more.
PART = {torch.float32: 0.02}
COARSE_PART = 0.1  # in bfloat16 and float16
STEM, BRANCHES = 6, (48, 4, 4)  # tokens of the trial: a long branch moves the one behind it far from its position
ASKED = 32  # tokens of the vocabulary whose log-probabilities are compared


def counts_places(config: Any) -> bool:
    """Whether attention has a window of places in the row (GPT-Neo, for one), which no short trial shows."""
    return any(
        name.endswith("window_size") and isinstance(value, int) and value for name, value in config.to_dict().items()
    )


def bears_sharing(model: Any) -> bool:
    """Whether a small tree of tokens gives the log-probabilities, and the next step, that plain passes give."""
    if model.config.is_encoder_decoder or counts_places(model.config.get_text_config()):
        return False
    vocabulary = int(model.config.get_text_config().vocab_size)
    drawn = torch.randint(vocabulary, (2 * STEM + sum(BRANCHES),), generator=torch.Generator().manual_seed(0)).tolist()
    stem, stranger, *branches = (
        drawn[end - size : end]
        for end, size in zip(accumulate((STEM, STEM, *BRANCHES)), (STEM, STEM, *BRANCHES), strict=True)
    )
    for place, branch in enumerate(branches):  # they part with their first token
        branch[0] = (branches[0][0] + place) % vocabulary
    sequences, strangers = ([(*its, *branch) for branch in branches] for its in (stem, stranger))
    forward = Forward(model)
    try:
        plain, other = plain_trial(forward, sequences), plain_trial(forward, strangers)
        shared = shared_trial(forward, sequences)
    except Exception:  # model code of any kind meets arguments that it does not know
        return False
    part = PART.get(forward.dtype, COARSE_PART)
    return bool((plain - shared).abs().mean() <= part * (plain - other).abs().mean())


def plain_trial(forward: Forward, sequences: list[tuple[int, ...]]) -> torch.Tensor:
    """Log-probabilities of the first ASKED tokens of the vocabulary after each sequence, and after the first one with
    its first token behind it."""
    found = []
    with torch.inference_mode():
        for sequence in (*sequences, (*sequences[0], sequences[0][0])):
            ids = torch.tensor([sequence], device=forward.device)
            found.append(forward.model(input_ids=ids, use_cache=False).logits[0, -1])
    return torch.stack(found).float().log_softmax(dim=-1)[:, :ASKED].flatten()


def shared_trial(forward: Forward, sequences: list[tuple[int, ...]]) -> torch.Tensor:
    """The same: the stem first, below it two branches in one row and one in another, then one step further."""
    tree = token_tree(sequences, longest=STEM + sum(BRANCHES))
    (stem,) = tree.children[0]
    first, second, third = tree.children[stem]
    passes = (
        Pass((), (Row((stem,)),), keep=True),
        Pass((stem,), (Row((first, second)), Row((third,))), drop=(stem,)),
    )
    vocabulary = int(forward.model.config.get_text_config().vocab_size)
    asked = min(ASKED, vocabulary)
    targets = [Target(end, BRANCHES[place] - 1, token, asked * place + token)
               for place, end in enumerate(tree.ends) for token in range(asked)]  # fmt: skip
    answers = Answers.of(len(targets), forward.device)
    going = Continuing(forward, 1, STEM + BRANCHES[0] + 1)

    def started(batch: Batch, made: KeysValues, trunk: KeysValues | None, logits: torch.Tensor) -> None:
        if batch.endings is not None:
            going.begin([0], batch.endings, made, trunk)

    forward.run(batches_of(tree, passes, targets, {tree.ends[0]: 0}, forward.device), answers, started)
    longer = going.step([sequences[0][0]]).float().log_softmax(dim=-1)[0, :asked]
    return torch.cat([answers.logprob, longer])
