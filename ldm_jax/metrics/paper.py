# SPDX-License-Identifier: Apache-2.0
"""Contains the paper's results and the protocols by which they were measured.

Source: Rombach et al. 2022 (arXiv 2112.10752v2), in the tables named below. Its FIDs
are computed against the authors' own statistics, with torch-fidelity 0.3.0 (App. E.3).
"""

from typing import NamedTuple


class Protocol(NamedTuple):
    """How the paper evaluates a kind of model.

    Attributes:
      num_images: number of samples; None means one for each image of the set.
      metrics: names of the metrics.
      reference: description of the images to compare with.
      balanced: whether all classes have the same number of samples.
    """

    num_images: int | None
    metrics: tuple[str, ...]
    reference: str
    balanced: bool = True


PROTOCOLS = {
    "paper-uncond": Protocol(
        50_000, ("fid", "is", "precision", "recall"), "the whole training set"
    ),
    "paper-class": Protocol(
        50_000, ("fid", "sfid", "is", "precision", "recall"), "the whole training set"
    ),
    "paper-coco": Protocol(
        30_000, ("fid", "is"), "MS-COCO's validation images of the 30,000 captions"
    ),
    "paper-sr": Protocol(
        None,
        ("fid", "is", "psnr", "ssim"),
        "ImageNet's validation images whose short side is at least 256",
    ),
    "paper-inpaint": Protocol(
        30_000, ("fid", "lpips"), "Places' test images without a hole"
    ),
    "paper-inpaint-2k": Protocol(
        2_000, ("fid",), "Places' validation images without a hole, after 6 epochs"
    ),
    "paper-layout": Protocol(2_048, ("fid",), "validation images of the layouts"),
    "paper-reconstruction": Protocol(
        None,
        ("fid", "is", "psnr", "lpips", "ssim"),
        "ImageNet's validation images, cropped in the center to 256x256",
    ),
}


class PaperResult(NamedTuple):
    """Results of one model in the paper.

    Attributes:
      protocol: a key of PROTOCOLS.
      where: the table.
      steps: description of the sampling steps; "" for a first stage.
      figures: value of each metric, as printed.
    """

    protocol: str
    where: str
    steps: str
    figures: dict[str, float]


def _prf(fid, precision, recall, **more):
    return dict(fid=fid, precision=precision, recall=recall, **more)


def _unconditional(steps, fid, precision, recall, score):
    # The inception score is in the README of the released code alone.
    figures = _prf(fid, precision, recall, **{"is": score})
    return PaperResult("paper-uncond", "Tab. 1; IS: README", steps, figures)


def _stage(fid, score, psnr, lpips, ssim):
    # The table's PSIM is a perceptual distance whose network the paper does not name;
    # it is probably LPIPS with VGG16, and is stored as "lpips".
    values = {"fid": fid, "is": score, "psnr": psnr, "lpips": lpips, "ssim": ssim}
    return PaperResult("paper-reconstruction", "Tab. 8", "", values)


def _enlarged(name, where, steps, fid, fid_train, score, psnr, ssim):
    """Makes two rows: compared with validation images, and with training images."""
    values = {"fid": fid, "is": score, "psnr": psnr, "ssim": ssim}
    return {
        name: PaperResult("paper-sr", where, steps, values),
        f"{name}-train": PaperResult("paper-sr", where, steps, {"fid": fid_train}),
    }


def _filled(name, fid, lpips, fid_large, lpips_large):
    """Makes two rows of Tab. 7: all masks, and those over 40 to 50 % of the image."""
    values = {"fid": fid, "lpips": lpips}
    large = {"fid": fid_large, "lpips": lpips_large}
    return {
        name: PaperResult("paper-inpaint", "Tab. 7, all", "", values),
        f"{name}-40-50": PaperResult(
            "paper-inpaint", "Tab. 7, 40-50 % masked", "", large
        ),
    }


_C = "paper-class"
ROWS = {
    "celebahq": _unconditional("500 DDIM", 5.11, 0.72, 0.49, 3.29),
    "ffhq": _unconditional("200 DDIM", 4.98, 0.73, 0.50, 4.50),
    "churches": _unconditional("200 DDIM", 4.02, 0.64, 0.52, 2.72),
    "bedrooms": _unconditional("200 DDIM", 2.95, 0.66, 0.48, 2.22),
    "text": PaperResult(
        "paper-coco", "Tab. 2", "250 DDIM", {"fid": 23.31, "is": 20.03}
    ),
    "text-guided": PaperResult(
        "paper-coco", "Tab. 2", "250 DDIM, scale 1.5", {"fid": 12.63, "is": 30.29}
    ),
    "imagenet": PaperResult(
        _C, "Tab. 3", "250 DDIM", _prf(10.56, 0.71, 0.62, **{"is": 103.49})
    ),
    "imagenet-1.25": PaperResult(
        _C, "Tab. 3", "250 DDIM, scale 1.25", _prf(3.95, 0.81, 0.55, **{"is": 178.22})
    ),
    "imagenet-1.5": PaperResult(
        _C, "Tab. 3", "250 DDIM, scale 1.5", _prf(3.60, 0.87, 0.48, **{"is": 247.67})
    ),
    "imagenet-f8": PaperResult(
        _C, "Tab. 10", "", _prf(15.51, 0.65, 0.63, **{"is": 79.03})
    ),
    "imagenet-f8-g": PaperResult(
        _C,
        "Tab. 10",
        "200 DDIM, classifier scale 10",
        _prf(7.76, 0.84, 0.35, **{"is": 209.52}),
    ),
    "imagenet-f8-2.9m": PaperResult(
        _C, "Tab. 10", "", _prf(17.41, 0.65, 0.62, **{"is": 72.92})
    ),
    # For this row, Tab. 18 gives 100 steps and Tab. 10 gives 200.
    "imagenet-f8-g-2.9m": PaperResult(
        _C,
        "Tab. 10",
        "200 DDIM, classifier scale 10",
        _prf(8.11, 0.83, 0.36, **{"is": 190.43}),
    ),
    "adm": PaperResult(_C, "Tab. 3, of others", "", {"fid": 10.94, "is": 100.98}),
    "adm-g": PaperResult(_C, "Tab. 3, of others", "", {"fid": 4.59, "is": 186.7}),
    "conceptual": PaperResult(
        "paper-coco", "README", "100 DDIM", {"fid": 16.79, "is": 13.89}
    ),
    **_enlarged("superres", "Tab. 5", "100 DDIM", 2.8, 4.8, 166.3, 24.4, 0.69),
    **_enlarged("superres-big", "Tab. 5", "100 DDIM", 2.4, 4.3, 174.9, 24.7, 0.71),
    **_enlarged(
        "superres-guided-50", "Tab. 5", "50, guided", 4.4, 6.4, 153.7, 25.8, 0.74
    ),
    **_enlarged(
        "superres-guided-100", "Tab. 11", "100, guided", 4.4, 6.4, 154.1, 25.7, 0.73
    ),
    **_enlarged("superres-15ep", "Tab. 11", "100 DDIM", 2.6, 4.6, 169.76, 24.4, 0.69),
    **_enlarged("superres-pixel", "Tab. 11", "100 DDIM", 5.1, 7.1, 163.06, 24.1, 0.59),
    **{
        name: PaperResult(
            "paper-sr",
            "Tab. 5, of others",
            "",
            {"fid": fid, "is": score, "psnr": psnr, "ssim": ssim},
        )
        for name, fid, score, psnr, ssim in (
            ("sr3", 5.2, 180.1, 26.4, 0.762),
            ("superres-regression", 15.2, 121.1, 27.9, 0.801),
        )
    },
    **_filled("inpaint", 2.15, 0.144, 11.87, 0.257),
    **_filled("inpaint-noattn", 2.37, 0.145, 12.60, 0.259),
    **_filled("inpaint-big-256", 2.40, 0.142, 12.89, 0.257),
    **_filled("inpaint-big", 1.50, 0.137, 9.39, 0.246),
    **_filled("lama", 2.23, 0.134, 12.31, 0.243),
    **{
        f"inpaint-2k-{name}": PaperResult(
            "paper-inpaint-2k", "Tab. 6", "", {"fid": fid}
        )
        for name, fid in (
            ("pixels", 24.74),
            ("kl", 15.21),
            ("vq", 14.99),
            ("noattn", 15.95),
        )
    },
    "layout-coco": PaperResult("paper-layout", "Tab. 9", "200 DDIM", {"fid": 40.91}),
    "layout-coco-f8": PaperResult("paper-layout", "Tab. 9", "100 DDIM", {"fid": 42.06}),
    "layout-openimages": PaperResult("paper-layout", "Tab. 9", "", {"fid": 32.02}),
    "layout-openimages-512": PaperResult(
        "paper-layout", "Tab. 9", "200 DDIM", {"fid": 35.80}
    ),
    "vq-f32": _stage(31.83, 40.40, 17.45, 2.58, 0.41),
    "vq-f16": _stage(5.15, 144.55, 20.83, 1.73, 0.54),
    "vq-f8": _stage(1.14, 201.92, 23.07, 1.17, 0.65),
    "vq-f8-n256": _stage(1.49, 194.20, 22.35, 1.26, 0.62),
    "vq-f4": _stage(0.58, 224.78, 27.43, 0.53, 0.82),
    "vq-f4-noattn": _stage(1.06, 221.94, 25.21, 0.72, 0.76),
    "vq-f4-n256": _stage(0.47, 223.81, 26.43, 0.62, 0.80),
    "vq-f2": _stage(0.16, 232.75, 30.85, 0.27, 0.91),
    "vq-f2-n64": _stage(0.40, 226.62, 29.13, 0.38, 0.90),
    "kl-f32": _stage(2.04, 189.53, 22.27, 1.41, 0.61),
    "kl-f32-c16": _stage(7.3, 132.75, 20.38, 1.88, 0.53),
    "kl-f16": _stage(0.87, 210.31, 24.08, 1.07, 0.68),
    "kl-f16-c8": _stage(2.63, 178.68, 21.94, 1.49, 0.59),
    "kl-f8": _stage(0.90, 209.90, 24.19, 1.02, 0.69),
    "kl-f4": _stage(0.27, 227.57, 27.53, 0.55, 0.82),
    "kl-f2": _stage(0.086, 232.66, 32.47, 0.20, 0.93),
}


class PaperSpeed(NamedTuple):
    """Sampling speed of a row in the paper, on one A100 with its first stage.

    Attributes:
      images_per_second: as printed, in Tab. 5 for super-resolution, in Tab. 6 for
        inpainting and in Tab. 18 for the others. The batch sizes are not published, and
        the original code stops the clock before it decodes. The training rates of Tab.
        6 count steps rather than images (inferred from its hours per epoch); what its
        sampling rates count is not known.
      steps: number of sampler steps; None if it is not published.
      gmac: multiply-adds of one evaluation of the denoiser for one sample, in 1e9,
        counted by us for the layers of the released code; None if its size is not
        known. The layers of this package give the same result with fewer: upsampling
        needs 4/9, and attention to the single token of a class next to none.
      guidance_scale: of classifier-free guidance; 1 is off.
      guide: "classifier", or "lpips" for image guiding; "" for neither.
    """

    images_per_second: float
    steps: int | None
    gmac: float | None = None
    guidance_scale: float = 1.0
    guide: str = ""


SPEEDS = {
    "celebahq": PaperSpeed(0.43, 500, 101.2),
    "ffhq": PaperSpeed(1.07, 200, 101.2),
    "bedrooms": PaperSpeed(1.07, 200, 101.2),
    "churches": PaperSpeed(6.80, 100, 20.9),
    "imagenet-f8": PaperSpeed(1.9, 200, 57.0),
    # Tab. 18 has 100 steps, and the FID at 2.9M training steps.
    "imagenet-f8-g": PaperSpeed(1.93, 100, 57.0, guide="classifier"),
    "imagenet-f8-g-2.9m": PaperSpeed(1.93, 100, 57.0, guide="classifier"),
    "imagenet": PaperSpeed(0.7, 250, 104.2),
    "imagenet-1.5": PaperSpeed(0.4, 250, 104.2, guidance_scale=1.5),
    "superres": PaperSpeed(4.62, 100, 40.2),
    "superres-big": PaperSpeed(4.5, 100),
    "superres-guided-50": PaperSpeed(0.38, 50, 40.2, guide="lpips"),
    "inpaint-2k-pixels": PaperSpeed(0.26, None, 284.7),
    "inpaint-2k-pixels-512": PaperSpeed(0.07, None),
    **{
        f"inpaint-2k-{name}": PaperSpeed(rate, None, 103.8)
        for name, rate in (("kl", 0.97), ("vq", 0.97), ("noattn", 0.99))
    },
    **{
        f"inpaint-2k-{name}-512": PaperSpeed(rate, None, 416.9)
        for name, rate in (("kl", 0.34), ("vq", 0.34), ("noattn", 0.36))
    },
}


def find_speed(name: str) -> PaperSpeed:
    """Returns the paper's speed of a row; a ValueError lists the rows."""
    if name not in SPEEDS:
        raise ValueError(
            f'unknown row "{name}" of the paper\'s speeds; one of: '
            f"{', '.join(sorted(SPEEDS))}."
        )
    return SPEEDS[name]


def find_protocol(name: str) -> Protocol:
    """Returns a protocol by its name; a ValueError lists the names."""
    if name not in PROTOCOLS:
        raise ValueError(
            f'unknown protocol "{name}"; one of: {", ".join(sorted(PROTOCOLS))}.'
        )
    return PROTOCOLS[name]


def find_row(name: str) -> PaperResult:
    """Returns a row of the paper by its name; a ValueError lists the names."""
    if name not in ROWS:
        raise ValueError(
            f'unknown row "{name}" of the paper; one of: {", ".join(sorted(ROWS))}.'
        )
    return ROWS[name]
