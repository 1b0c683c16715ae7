# SPDX-License-Identifier: Apache-2.0
"""Config files, overrides on the command line, and checks of sections."""
