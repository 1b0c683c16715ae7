# SPDX-License-Identifier: Apache-2.0
"""Object stores, gs:// and s3://: objects, copies, staging, leases."""
