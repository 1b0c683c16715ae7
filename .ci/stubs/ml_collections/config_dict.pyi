# SPDX-License-Identifier: Apache-2.0
from typing import Any

def placeholder(field_type: type, required: bool = ...) -> Any: ...
