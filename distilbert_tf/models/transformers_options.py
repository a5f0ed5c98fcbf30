"""Options of transformers that this package does not have, and what to do instead."""

from typing import Any

# Those without effect here, and those whose effect is had otherwise.
WITHOUT_EFFECT = (
    "from_pt",
    "from_tf",
    "low_cpu_mem_usage",
    "resume_download",
    "safe_serialization",
    "use_safetensors",
)
OTHERWISE = {
    "attn_implementation": "attention has one implementation; leave it out",
    "device_map": "TensorFlow places a model: load it under `tf.device` or in a strategy's scope",
    "from_flax": "Flax weights are not read; save them with PyTorch transformers first",
    "ignore_mismatched_sizes": "pass fresh_head=True, which starts with a new head",
    "output_loading_info": "loading is strict: whatever does not fit is an error",
    "max_shard_size": "a checkpoint is one file",
    "proxies": "set HTTPS_PROXY in the environment",
    "push_to_hub": "call the model's own push_to_hub",
    "quantization_config": "weights are quantized by export_saved_model(weights='int8')",
    "saved_model": "a SavedModel is written by distilbert_serving.export_saved_model",
    "torch_dtype": "pass dtype, a dtype or policy of Keras' such as 'mixed_bfloat16'",
    "trust_remote_code": "no code of a repository is ever run; leave it out",
}


def refuse_options(function: str, options: dict[str, Any]) -> None:
    """Removes options of transformers that change nothing, and refuses those that would.

    Args:
        function: What they were passed to.
        options: Arguments by name, which are changed.

    Raises:
        TypeError: One would change something; the message says what does that here.
    """
    for name in WITHOUT_EFFECT:
        options.pop(name, None)
    for name, remedy in OTHERWISE.items():
        if options.pop(name, None):
            raise TypeError(f"{function} has no {name}: {remedy}.")
