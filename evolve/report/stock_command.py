"""How to check a report: the stock lm-eval command that gives the winner's row again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from evolve.config.search_yaml import SearchConfig
from evolve.submission.task_files import ELSEWHERE, HERE

DATA_FILES = "lm-eval looks for the relative `data_files` of a task only from the folder that it is started in."
SENT = (
    "The run was submitted: paths are those on the cluster, and the task folders those that were sent. Elsewhere, name "
    "the folder that `evolve fetch` made in place of the run's, and your own task folders."
)
STOCK_BATCH = 16  # requests in a forward pass of lm-eval's own command


def check_text(config: SearchConfig, dtype: str, reserved: Sequence[str]) -> str:
    """The command in Markdown, or why there is none. `reserved`: tasks whose few-shot examples were set aside."""
    score = config.score
    if reserved:
        return (
            f"lm-eval's own command draws few-shot examples of {', '.join(reserved)} from all documents; here "
            "they come from documents that were set aside, so its numbers differ a little."
        )
    shots = {task.num_fewshot for task in score.tasks}
    if len(shots) > 1 or len(score.include) > 1:
        return (
            "lm-eval's own command takes one folder of tasks and one number of few-shot examples for all of them; "
            "run it task by task with the documents in `documents/report.json`."
        )
    local = f"\n\n{DATA_FILES}" if score.include else ""
    if any(path.startswith((HERE, ELSEWHERE)) for path in score.include):
        local += f"\n\n{SENT}"
    return f"The winner's row, by lm-eval itself:\n\n```\n{stock_command(config, dtype, *shots)}\n```{local}"


def stock_command(config: SearchConfig, dtype: str, num_fewshot: int | None) -> str:
    score = config.score
    model = [f"pretrained={config.folder}/checkpoint", f"dtype={dtype}", "softmax_dtype=float32"]
    if score.max_length:
        model.append(f"max_length={score.max_length}")
    if config.run.trust_remote_code:
        model.append("trust_remote_code=True")
    words = [
        "lm_eval --model hf",
        f"--model_args {shlex.quote(','.join(model))}",
        f"--tasks {','.join(task.task for task in score.tasks)}",
        *(f"--include_path {shlex.quote(path)}" for path in score.include),
        f"--samples {shlex.quote(f'{config.folder}/documents/report.json')}",
        f"--batch_size {STOCK_BATCH}",
        *([] if num_fewshot is None else [f"--num_fewshot {num_fewshot}"]),
        *([f"--gen_kwargs {shlex.quote(json.dumps(score.gen_kwargs))}"] if score.gen_kwargs else []),
        *(["--apply_chat_template"] if score.apply_chat_template else []),
        *([f"--system_instruction {shlex.quote(score.system_instruction)}"] if score.system_instruction else []),
        "--log_samples --output_path checked",
    ]
    return " \\\n    ".join(words)
