# SPDX-License-Identifier: Apache-2.0
"""Alone knows HTML: the parts of the pages that runs, quickstarts and studies write.

A page is one file without scripts or links to anything outside of it: pictures and
curves are inside.
"""
