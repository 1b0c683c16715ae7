# SPDX-License-Identifier: Apache-2.0
"""Image sets, latents and batches against TFDS, Pillow, OpenCV and by hand."""
