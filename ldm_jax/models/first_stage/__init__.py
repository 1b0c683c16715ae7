# SPDX-License-Identifier: Apache-2.0
"""Parts of the first stage: coders, bottleneck, codebook, discriminator."""
