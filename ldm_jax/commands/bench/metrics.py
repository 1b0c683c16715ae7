# SPDX-License-Identifier: Apache-2.0
"""Times evaluation: InceptionV3's features, then distances of features."""

import dataclasses
import importlib.util
import resource
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util

from ldm_jax.commands.bench.history import RATIO, Figures
from ldm_jax.interop.feature_networks import weights
from ldm_jax.metrics.image_sets.frechet import FeatureMoments, frechet_distance
from ldm_jax.metrics.image_sets.kernel import kernel_distance
from ldm_jax.metrics.image_sets.manifold import precision_recall
from ldm_jax.metrics.image_sets.measure import on_devices, place_rows
from ldm_jax.models.features.inception import InceptionV3

PROTOCOL = 50_000
WIDTH = 2048


class Cost(NamedTuple):
    """Seconds of wall time, and of CPU time over all threads of the process."""

    clock: float
    cpu: float

    def __add__(self, other):
        return Cost(self.clock + other.clock, self.cpu + other.cpu)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the benchmark, one flag each.

    Attributes:
      images: number of images for the features.
      size: height and width.
      batch_size: images of a batch.
      features: number of features in each of the sets compared.
      has_torch: whether torch-fidelity is measured where it is installed.
    """

    images: int
    size: int
    batch_size: int
    features: int
    has_torch: bool


def run(options: Options) -> Figures:
    """Computes features and distances, prints and returns the time that they take."""
    installed = all(map(importlib.util.find_spec, ("torch", "torch_fidelity")))
    if not installed and options.has_torch:
        print("torch-fidelity is not installed; nothing to compare with")
    has_peer = installed and options.has_torch
    features = _features(options, has_peer)
    distances = _distances(options.features, has_peer)
    hours = (PROTOCOL * features["ldm_jax"] + distances["ldm_jax FID"]) / 3600
    print(
        f"extrapolated: the paper's {PROTOCOL} images and their FID take {hours:.2f} h "
        "here, sampling apart"
    )
    figures = {f"features {who}": each for who, each in features.items()} | distances
    if has_peer:
        ratio = features["ldm_jax"] / features["torch-fidelity"]
        figures[RATIO + "torch-fidelity"] = ratio
    return figures


def _features(options: Options, has_peer: bool) -> Figures:
    """Times the networks in turns; returns the seconds for an image by the clock."""
    rng = np.random.default_rng(0)
    shape = (options.batch_size, options.size, options.size, 3)
    flat = _weights(rng)
    runs = {"ldm_jax": _ours(flat)}
    if has_peer:
        runs["torch-fidelity"] = _torch_fidelity(flat)
    image = rng.integers(0, 256, shape).astype(np.uint8)
    outputs = [run(image) for run in runs.values()]  # warms up, compiles
    if has_peer:
        apart = np.abs(outputs[0] - outputs[1]).max() / outputs[1].max()
        print(f"features {apart:.1e} apart")
    costs = dict.fromkeys(runs, Cost(0, 0))
    num_batches = -(-options.images // options.batch_size)
    for _ in range(num_batches):
        image = rng.integers(0, 256, shape).astype(np.uint8)
        for name, run in runs.items():
            costs[name] += _timed(run, image)[1]
    done = num_batches * options.batch_size
    for name, cost in costs.items():
        print(
            f"{name:14s} {done} images: {done / cost.clock:6.2f} images/s, "
            f"{cost.cpu / done:.3f} s of CPU an image"
        )
    return {name: cost.clock / done for name, cost in costs.items()}


def _weights(rng) -> dict[str, np.ndarray]:
    """Draws weights that keep activations of one size."""
    flat = {}
    for path, shape in weights.network_shapes("inception", "tensorflow").items():
        spread = 0.1 if len(shape) == 1 else (2 / np.prod(shape[:-1])) ** 0.5
        flat[path] = (spread * rng.standard_normal(shape)).astype(np.float32)
    return flat


def _ours(flat) -> Callable[[np.ndarray], np.ndarray]:
    params = jax.device_put(traverse_util.unflatten_dict(flat, sep="/"))
    apply = jax.jit(lambda x: InceptionV3().apply({"params": params}, x)["pool"])
    return lambda image: on_devices(apply, image)


def _torch_fidelity(flat) -> Callable[[np.ndarray], np.ndarray]:
    """Makes the same network of torch-fidelity; its normalisations do nothing."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import (
        FeatureExtractorInceptionV3,
    )

    state = {"fc.bias": torch.zeros(1008)}
    for path, value in flat.items():
        names = weights.published_tensors("inception", path)
        if len(names) == 1:
            state[names[0]] = torch.tensor(value.T.copy())
        elif path.endswith("kernel"):
            bias = flat[path.replace("kernel", "bias")]
            ones = np.ones_like(bias)
            # Their epsilon is 0.001.
            values = (value.transpose(3, 2, 0, 1), ones, bias, 0 * ones, 0.999 * ones)
            state |= {
                name: torch.tensor(np.ascontiguousarray(x))
                for name, x in zip(names, values, strict=True)
            }
            counter = names[-1].replace("running_var", "num_batches_tracked")
            state[counter] = torch.tensor(0)
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.save(state, file.name)
        network = FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=file.name
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    print(f"torch-fidelity on {device}, ldm_jax on {jax.devices()[0].device_kind}")

    @torch.inference_mode()
    def run(image):
        x = torch.from_numpy(image).to(device).permute(0, 3, 1, 2).contiguous()
        return network(x)[0].cpu().numpy()

    return run


def _timed(function: Callable, *arguments):
    """Calls a function; returns its result and its Cost."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, Cost(time.perf_counter() - clock, time.process_time() - cpu)


def _distances(count: int, has_peer: bool) -> Figures:
    """Times distances of two sets; returns the seconds of each.

    The sets are [count, 2048] float32, like pooled ReLUs: correlated, half of them 0.
    """
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
    sets = [
        np.maximum(rng.standard_normal((count, WIDTH), np.float32) @ mix + shift, 0)
        for shift in (0, 0.1)
    ]
    size = min(1000, count)
    ours = {
        "FID": lambda: frechet_distance(*map(_gaussian, sets)),
        "KID": lambda: kernel_distance(*sets, subset_size=size)[0],
        "precision": lambda: precision_recall(*sets, place=place_rows)[0],
    }
    peers = _peers(sets, size) if has_peer else {}
    seconds: Figures = {}
    for name, function in ours.items():
        for who, run in (("ldm_jax", function), ("torch-fidelity", peers.get(name))):
            if run is None:
                continue
            value, cost = _timed(run)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"{name:9s} of {count} features {who:14s} {cost.clock:7.1f} s, "
                f"{cost.cpu:7.1f} s of CPU, peak so far {peak:.1f} GiB: {value:.7g}"
            )
            seconds[f"{who} {name}"] = cost.clock
    return seconds


def _gaussian(rows):
    """Sums up rows in batches, as an evaluation does."""
    moments = FeatureMoments(rows.shape[1])
    for low in range(0, len(rows), 64):
        moments.update(rows[low : low + 64])
    return moments.gaussian()


def _peers(sets, size: int) -> dict[str, Callable]:
    import torch
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    first, second = map(torch.tensor, sets)

    def frechet():
        statistics = map(metric_fid.fid_features_to_statistics, (first, second))
        return metric_fid.fid_statistics_to_metric(*statistics, False)[
            "frechet_inception_distance"
        ]

    def kernel():
        return metric_kid.kid_features_to_metric(
            first,
            second,
            **dict(kid_subsets=100, kid_subset_size=size, rng_seed=2020, verbose=False),
            **dict(kid_kernel="poly", kid_kernel_poly_degree=3),
            **dict(kid_kernel_poly_coef0=1, kid_kernel_poly_gamma=None),
        )["kernel_inception_distance_mean"]

    def precision():
        return metric_prc.prc_features_to_metric(
            second,
            first,
            **dict(prc_neighborhood=3, prc_batch_size=1000, save_cpu_ram=True),
            verbose=False,
        )["precision"]

    return {"FID": frechet, "KID": kernel, "precision": precision}
