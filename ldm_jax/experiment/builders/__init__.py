# SPDX-License-Identifier: Apache-2.0
"""One builder per task: from config sections to the parts of a run."""
