# SPDX-License-Identifier: Apache-2.0
"""The error of an export whose target cannot compute what the model does."""


class CannotExpress(ValueError):
    """A format has no way to describe what a model does; the message says what."""
