# SPDX-License-Identifier: Apache-2.0
"""Published weights of LPIPS, Inception, MobileNetV2 and CLIP."""
