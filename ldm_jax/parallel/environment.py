# SPDX-License-Identifier: Apache-2.0
"""Checks the environment variables of JAX and this package before any work is done.

JAX alone would report a wrong value late or unclearly: 64-bit floats at the first
checkpoint, a missing platform by an assertion without a message.
"""

import os

import jax

# Set by a launcher; JAX itself reads no such variables.
COORDINATOR = "LDM_JAX_COORDINATOR"
NUM_PROCESSES = "LDM_JAX_NUM_PROCESSES"
PROCESS_ID = "LDM_JAX_PROCESS_ID"
HEARTBEAT_SECONDS = "LDM_JAX_HEARTBEAT_SECONDS"
EXIT_WHEN_STOPPED = "LDM_JAX_EXIT_WHEN_STOPPED"

# Our variables that contain a whole number, and the least of each.
LEAST = {NUM_PROCESSES: 1, PROCESS_ID: 0, HEARTBEAT_SECONDS: 1, EXIT_WHEN_STOPPED: 0}

# JAX's settings that the programs of this package need: value, reason.
REQUIRED = {
    "jax_enable_x64": (False, "models and checkpoints are float32"),
    "jax_disable_jit": (False, "the training step and the samplers are compiled"),
    "jax_numpy_dtype_promotion": ("standard", "arrays of float32 meet whole numbers"),
}
# Of these the transfers between host and device that batches need may be logged only.
TRANSFER_GUARDS = (
    *("jax_transfer_guard", "jax_transfer_guard_host_to_device"),
    *("jax_transfer_guard_device_to_host", "jax_transfer_guard_device_to_device"),
)

# Found in JAX's message when a device exists and another process uses it: such a
# failure passes, so it is not reported as wrong input.
_BUSY = ("in use", "out of memory", "resource_exhausted", "busy")


def check_environment() -> None:
    """Checks our variables and the settings that JAX has read from its own.

    Raises:
      ValueError: one has a value that cannot work; it is named.
    """
    for name in LEAST:
        whole_number(name)
    for option, (value, reason) in REQUIRED.items():
        if getattr(jax.config, option) != value:
            raise ValueError(
                f"{option.upper()} must be {_shown(value)}: got "
                f"{_shown(getattr(jax.config, option))}; {reason}. Unset it."
            )
    for option in TRANSFER_GUARDS:
        if str(getattr(jax.config, option)).startswith("disallow"):
            raise ValueError(
                f'{option.upper()} must be "allow" or "log": got '
                f'"{getattr(jax.config, option)}"; batches are transferred in every '
                "step. Unset it."
            )


def check_devices() -> None:
    """Checks that JAX can use the devices that JAX_PLATFORMS names; starts them.

    Does nothing where the variable is not set: JAX then takes what there is.

    Raises:
      ValueError: there are none of this kind, or JAX has no plugin for them.
      RuntimeError: they are in use by another process.
    """
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if not platforms:
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        message = str(error).partition("\n")[0]
        if any(word in message.lower() for word in _BUSY):
            raise
        raise ValueError(
            f"JAX_PLATFORMS must name devices that JAX can use here: got {platforms} "
            f"({message or 'there is no such device'}). Unset it to use what there "
            "is, or install the extra of these devices ('ldm_jax[cuda]', "
            "'ldm_jax[tpu]')."
        ) from error


def whole_number(name: str) -> int | None:
    """Reads one of our variables; None where it is not set.

    Args:
      name: a key of LEAST.

    Raises:
      ValueError: it is not a whole number, or too small.
    """
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.strip().isdecimal() or int(text) < LEAST[name]:
        raise ValueError(
            f"{name} must be a whole number of {LEAST[name]} or more: got "
            f"{text!r}; correct it, or unset it."
        )
    return int(text)


def _shown(value: object) -> str:
    """Writes a setting as one would in the shell."""
    return {True: "1", False: "0"}.get(value, f'"{value}"')  # type: ignore[call-overload]
