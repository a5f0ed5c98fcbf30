"""The text that `--help` prints: usage, an example, and the flags by what they are for."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from distilbert_tf.commands.common_flags import Command

PROGRAM = "distilbert-tf"
_WIDTH = 100
_TRAINING, _OTHER = "training", "other flags"

# Titles, and the flags under each, in this order; a flag that stands nowhere is among the others.
_GROUPS = {
    "model and result": (
        "model teacher corpus model_base_path model_config_file output overwrite dry_run version "
        "vocab_size lowercase min_frequency"
    ),
    "data": (
        "task data text_columns label_column labels problem_type metrics train_file "
        "validation_file test_file validation_share split max_train_examples bad_rows text_column "
        "corpus_dir whole_words"
    ),
    "texts and answers": "input pair output format json progress",
    "server": (
        "model_name host port rest_api_port grpc_max_threads max_message_bytes "
        "enable_grpc_healthcheck_service monitoring_config_file grace_s served_path policy "
        "label method signature header timeout_s wait_s concurrency"
    ),
    "tls": (
        "tls ssl_config_file tls_key tls_cert tls_client_ca root_certificates client_key "
        "client_certificate server_name"
    ),
    _TRAINING: (
        "epochs batch_size learning_rate lr_scheduler_type warmup_ratio weight_decay "
        "layerwise_lr_decay max_gradient_norm max_length class_weight label_smoothing_factor seed "
        "sampling_temperature fresh_head freeze_encoder frozen_layers"
    ),
    "distillation": (
        "distill_alpha distill_temperature student_layers temperature soft_targets_at "
        "soft_targets_weight masked_lm_weight cosine_weight teacher_dtype mask_probability "
        "word_smoothing"
    ),
    "evaluation": (
        "eval_steps metric_for_best_model early_stopping_patience save_steps keep_states"
    ),
    "devices": (
        "strategy num_workers num_processes runner dtype jit_compile gradient_accumulation_steps "
        "steps_per_execution deterministic"
    ),
    "batching": (
        "max_batch_size max_latency_ms max_request_rows allowed_batch_sizes enable_batching "
        "batching_parameters_file threads"
    ),
}


def describe_commands(commands: Mapping[str, Command]) -> str:
    """Returns what `distilbert-tf --help` prints."""
    lines = [
        f"usage: {PROGRAM} COMMAND [--flag=value ...]",
        "",
        "Fine-tunes, distils, exports and serves DistilBERT on TensorFlow.",
        "",
        "commands:",
    ]
    width = max(map(len, commands))
    lines += [f"  {name:<{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            *lines,
            "",
            f"{PROGRAM} COMMAND --help describes a command, {PROGRAM} --version the installation.",
            f"To start with: {PROGRAM} demo",
        ]
    )


def describe_command(name: str, command: Command, values: flags.FlagValues) -> str:
    """Returns what `--help` of a command prints."""
    lines = [
        f"usage: {PROGRAM} {name} [--flag=value ...] {command.words}".rstrip(),
        "",
        *textwrap.wrap(f"{command.summary[0].upper()}{command.summary[1:]}.", _WIDTH),
        "",
        "example:",
        f"  {PROGRAM} {name} {command.example}".rstrip(),
    ]
    for title, names in _grouped(values):
        lines += ["", f"{title}:"]
        for flag in names:
            lines += _describe_flag(values[flag], flag in command.required)
    return "\n".join(lines)


def _grouped(values: flags.FlagValues) -> Iterable[tuple[str, list[str]]]:
    left = set(values)
    for title, group in _GROUPS.items():
        if title == _TRAINING and "epochs" not in left:
            continue  # a batch_size and a max_length of something else
        if names := [name for name in group.split() if name in left]:
            left -= set(names)
            yield title, names
    if left:
        yield _OTHER, sorted(left)


def _describe_flag(flag: Any, is_required: bool) -> list[str]:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    text = flag.help.replace(
        ";\n    repeat this option to specify a list of values", "; repeatable"
    )
    if choices := getattr(flag.parser, "enum_values", None):
        text = f"{text.split(': ', 1)[1]}: {', '.join(choices)}"
    if is_required:
        text += " (required)"
    elif (default := as_typed(flag.default)) and "(default: " not in text:
        text += f" (default: {default})"
    return textwrap.wrap(
        f"{name}: {text}",
        _WIDTH,
        initial_indent="  ",
        subsequent_indent="      ",
        break_on_hyphens=False,
    )


def as_typed(value: Any) -> str:
    """Returns a flag's value as one would type it; nothing for what is off or empty."""
    if value is None or value is False:
        return ""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "true" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
