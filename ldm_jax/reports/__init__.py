# SPDX-License-Identifier: Apache-2.0
"""Writes HTML: the parts of the reports of runs, quickstarts and studies.

A page is one file without scripts or external links: pictures and curves are embedded.
"""
