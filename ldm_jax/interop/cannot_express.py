# SPDX-License-Identifier: Apache-2.0
"""The error of an export whose target cannot compute what the model does."""


class CannotExpress(ValueError):
    """Raised when a format cannot describe a model; the message names the reason."""
