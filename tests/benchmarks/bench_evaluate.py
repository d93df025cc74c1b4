"""Every public metric of `course_utils.evaluate` beside the way people write it: speed, memory, equal values.

    python tests/benchmarks/bench_evaluate.py [--rounds 3] [--rows 10000] [--features 2048] [--work nearest interval]

The rivals are public packages (prdc, torchmetrics, scipy) or the plain loop that is widely copied. All values are
compared, a difference stops the run. One thread, CPU seconds, rivals in turn, medians of ratios of neighbours in time.

Where memory matters each call runs in a forked process of its own, and memory is what the call adds to the peak. There
the errors are against an answer known to float64: the brute-force sum for the kernel, the closed form of an optimal
transport for the Fréchet distance.
"""

import argparse
import contextlib
import io
import math
import multiprocessing
import os
import resource
import statistics
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import torch
from side_by_side import hand_over, per_item, ratio, row, take_turns

from course_utils import evaluate

# ---------------------------------------------------------------------------------------------------------------------
# Each call in a process of its own: speed and memory
# ---------------------------------------------------------------------------------------------------------------------

ALONE = {  # work → rivals, ours first, each with its goals: × speed, share of the memory
    "precision_recall": {"course_utils": None, "prdc": (3.3, 0.25)},
    "kernel_distance": {"course_utils": None, "torchmetrics": (3.5, 0.2)},
    "frechet_from_moments": {"course_utils": None, "torchmetrics": (1.5, None), "scipy sqrtm": (3.5, None)},
}


def feature_sets(rows):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(rows, 64, generator=rng), 1.05 * torch.randn(rows, 64, generator=rng)


def gaussians(d):
    """Two covariances and their distance: the image of Σ under a positive T lies at tr (I − T) Σ (I − T)."""
    rng = torch.Generator().manual_seed(0)
    shear = torch.randn(d, d, generator=rng, dtype=torch.float64) / d**0.5
    cov_r = shear @ shear.T + 0.01 * torch.eye(d, dtype=torch.float64)
    bend = torch.randn(d, d, generator=rng, dtype=torch.float64) / d**0.5
    bend = bend @ bend.T / 2 + 0.5 * torch.eye(d, dtype=torch.float64)
    rest = torch.eye(d, dtype=torch.float64) - bend
    cov_f = bend @ cov_r @ bend
    known = (rest @ cov_r @ rest).trace().item()
    return torch.zeros(d, dtype=torch.float64), cov_r, (cov_f + cov_f.T) / 2, known


def call_and_answer(work, contestant, rows, d):
    """A function to time, and one that turns its result into an error relative to the known answer."""
    if work == "precision_recall":
        real, fake = feature_sets(rows)
        if contestant == "prdc":
            from prdc import compute_prdc

            real, fake = real.numpy(), fake.numpy()
            return lambda: compute_prdc(real, fake, nearest_k=5), lambda got: {k: float(v) for k, v in got.items()}
        return lambda: evaluate.precision_recall(real, fake, k=5), lambda got: got
    if work == "kernel_distance":
        real, fake = feature_sets(rows)

        def error(got):
            return abs(got / brute_force_kernel(real.double().numpy(), fake.double().numpy()) - 1)

        if contestant == "torchmetrics":
            from torchmetrics.image.kid import poly_mmd

            return lambda: poly_mmd(real, fake).item(), error
        return lambda: evaluate.kernel_distance(real, fake)[0], error
    mean, cov_r, cov_f, known = gaussians(d)
    size = cov_r.trace().item()

    def error(got):
        return abs(got - known) / size

    if contestant == "torchmetrics":
        from torchmetrics.image.fid import _compute_fid

        return lambda: _compute_fid(mean, cov_r, mean, cov_f).item(), error
    if contestant == "scipy sqrtm":
        from scipy.linalg import sqrtm

        a, b = cov_r.numpy(), cov_f.numpy()
        return lambda: float((a + b).trace() - 2 * sqrtm(a @ b).trace().real), error
    return lambda: evaluate.frechet_from_moments(mean, cov_r, mean, cov_f), error


def brute_force_kernel(x, y):
    """All pairs in float64, a few rows at a time so that the peak stays low."""
    d, n, m = x.shape[1], len(x), len(y)

    def total(a, b):
        return sum(float(((a[i : i + 200] @ b.T / d + 1) ** 3).sum()) for i in range(0, len(a), 200))

    own = [(total(a, a) - float((((a * a).sum(1) / d + 1) ** 3).sum())) / (len(a) * (len(a) - 1)) for a in (x, y)]
    return sum(own) - 2 * total(x, y) / (n * m)


def alone(work, contestant, rows, d):
    """Call once in a forked process, which has all modules already; the peak of memory is that of the call."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(measured(work, contestant, rows, d)))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"{contestant} did not finish {work}: its fault is shown above") from None
    finally:
        process.join()


def measured(work, contestant, rows, d):
    call, answer = call_and_answer(work, contestant, rows, d)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # prdc tells what it counts
        got = call()
    seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "megabytes": (peak - before) / 1024, "answer": answer(got)}


def right(work, answers, rows):
    """Stop the run when our answer is wrong, or when prdc counts otherwise."""
    ours = answers["course_utils"]
    if work == "precision_recall":  # prdc decides in float32: a row or two on the border may fall elsewhere
        apart = max(abs(ours[name] - answers["prdc"][name]) for name in ours)
        assert apart <= 5 / rows, f"precision_recall and prdc differ by {apart:.2g}"
    else:
        allowed = {"kernel_distance": 1e-9, "frechet_from_moments": 1e-10}[work]
        assert ours <= allowed, f"{work} errs by {ours:.2g}, more than {allowed:g}"


def beside(work, options):
    """Measure one work in processes of its own, print a line for each rival, return its rows."""
    size = f"{options.features} features" if work == "frechet_from_moments" else f"{options.rows:,} rows × 64"
    runs = {who: [] for who in ALONE[work]}
    for who in runs:
        call_and_answer(work, who, 10, 10)  # its imports, once
    for _ in range(options.rounds):
        for who in runs:
            runs[who].append(alone(work, who, options.rows, options.features))
    right(work, {who: results[0]["answer"] for who, results in runs.items()}, options.rows)
    seconds = {who: [one["seconds"] for one in results] for who, results in runs.items()}
    peaks = {who: max(1.0, statistics.median(one["megabytes"] for one in results)) for who, results in runs.items()}
    rows = []
    for who, goals in ALONE[work].items():
        answer = runs[who][0]["answer"]
        shown = f"{answer:.1e}" if isinstance(answer, float) else " ".join(f"{v:.5f}" for v in answer.values())
        report(work, who, statistics.median(seconds[who]), 1 / ratio(seconds, who, "course_utils"), peaks[who], shown)
        if goals:
            rows.append(row(f"{work}, {size}", who, ratio(seconds, "course_utils", who), goal=goals[0]))
            if goals[1]:  # elsewhere the inputs are larger than what the call adds
                share = peaks["course_utils"] / peaks[who]
                rows.append(
                    row(f"{work}, {size}", who, share, "share of the memory", goal=goals[1], direction="at most")
                )
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# In one process: speed
# ---------------------------------------------------------------------------------------------------------------------


def images_and_net(count):
    from course_utils.nets import Classifier
    from course_utils.rules import draw_digits

    torch.manual_seed(0)
    part, _ = draw_digits(torch.arange(count) % 10, torch.Generator().manual_seed(0))
    return part, Classifier(10).eval()


def features(rows):
    part, net = images_and_net(max(1, rows // 5))
    loader = per_item(part, 128, centred=True, shuffle=False)

    def plain():
        found = []
        with torch.no_grad():
            for images, _ in loader:
                found.append(net.features(images).numpy())
        return np.concatenate(found)

    return f"{len(part):,} images", "plain loop", lambda: evaluate.features(net.features, part), plain, 1e-5


def accuracy(rows):
    part, net = images_and_net(max(1, rows // 5))
    loader = per_item(part, 128, centred=True, shuffle=False)

    def plain():
        correct = total = 0
        with torch.no_grad():
            for images, labels in loader:
                correct += (net(images).argmax(1) == labels).sum().item()
                total += len(labels)
        return correct / total

    return f"{len(part):,} images", "plain loop", lambda: evaluate.accuracy(net, part), plain, 0


def moments(rows):
    x, _ = feature_sets(rows)
    array = x.numpy()

    def plain():
        return np.mean(array, axis=0, dtype=np.float64), np.cov(array, rowvar=False)

    return f"{rows:,} rows × 64", "numpy", lambda: evaluate.moments(x), plain, 1e-10


def frechet_distance(rows):
    from scipy.linalg import sqrtm

    real, fake = feature_sets(rows)

    def plain():
        (mean_r, cov_r), (mean_f, cov_f) = ((a.mean(0), np.cov(a, rowvar=False)) for a in (real.numpy(), fake.numpy()))
        root = sqrtm(cov_r @ cov_f).real
        return ((mean_r - mean_f) ** 2).sum() + np.trace(cov_r + cov_f - 2 * root)

    return f"{rows:,} rows × 64", "scipy sqrtm", lambda: evaluate.frechet_distance(real, fake), plain, 1e-5


def inception_score(rows):
    from scipy.stats import entropy

    p = torch.randn(rows, 10, generator=torch.Generator().manual_seed(0)).mul(3).softmax(1)
    array = p.double().numpy()

    def plain():
        scores = []
        for k in range(10):
            part = array[k * (rows // 10) : (k + 1) * (rows // 10)]
            marginal = part.mean(0)
            scores.append(np.exp(np.mean([entropy(part[i], marginal) for i in range(len(part))])))
        return np.mean(scores), np.std(scores)

    return f"{rows:,} rows × 10", "plain loop", lambda: evaluate.inception_score(p), plain, 1e-5


def nearest(rows):
    queries, reference = feature_sets(rows)
    queries = queries[: max(1, rows // 5)]
    q, r = queries.numpy(), reference.numpy()

    def plain():
        return np.array([np.linalg.norm(r - one, axis=1).min() for one in q])

    return (
        f"{len(q):,} queries, {rows:,} rows × 64",
        "plain loop",
        lambda: evaluate.nearest(queries, reference),
        plain,
        1e-5,
    )


def often(call):
    """A call of microseconds, many times: the clock ticks slower than that."""

    def repeated():
        for _ in range(200):
            got = call()
        return got

    return repeated


def seeds():
    return torch.randn(2, 20, generator=torch.Generator().manual_seed(0)).double().numpy()


def interval(rows):
    from scipy import stats

    a, _ = seeds()
    plain = often(lambda: stats.t.interval(0.95, len(a) - 1, loc=np.mean(a), scale=stats.sem(a)))
    return "20 seeds", "scipy", often(lambda: evaluate.interval(a)), plain, 1e-10


def paired_interval(rows):
    from scipy import stats

    a, b = seeds()
    plain = often(lambda: tuple(stats.ttest_rel(a, b).confidence_interval()))
    return "20 seeds", "scipy", often(lambda: evaluate.paired_interval(a, b)), plain, 1e-10


def bootstrap_interval(rows):
    count = max(100, rows // 10)
    values = (torch.rand(count, generator=torch.Generator().manual_seed(0)) < 0.8).double()
    array = values.numpy()

    def plain():
        rng = np.random.default_rng(0)
        means = [rng.choice(array, size=count, replace=True).mean() for _ in range(10_000)]
        return np.percentile(means, [2.5, 97.5])

    # Other random numbers: an end of 10,000 resamples errs by 0.03 standard errors of the mean, two of them by 0.04;
    # and the means of `count` zeros and ones lie 1 / count apart.
    allowed = 0.3 * math.sqrt(0.16 / count) + 1 / count
    ours = torch.Generator().manual_seed(0)
    return f"{count:,} values", "plain loop", lambda: evaluate.bootstrap_interval(values, ours), plain, allowed


HERE = {
    one.__name__: one
    for one in (
        features,
        accuracy,
        moments,
        frechet_distance,
        inception_score,
        nearest,
        interval,
        paired_interval,
        bootstrap_interval,
    )
}


def here(work, options):
    """Measure one work in this process, print its two lines, return its row."""
    size, rival, ours, plain, allowed = HERE[work](options.rows)
    got, expected = (
        np.concatenate([np.ravel(part) for part in made]) if isinstance(made, tuple) else np.ravel(made)
        for made in (ours(), plain())
    )
    apart = float(np.abs(got - expected).max())
    assert apart <= allowed, f"{work} and {rival} differ by {apart:.2g}, more than {allowed:.2g}"
    seconds = take_turns({"course_utils": lambda: ours, rival: lambda: plain}, options.rounds)
    for who, times in seconds.items():
        report(work, who, statistics.median(times), 1 / ratio(seconds, who, "course_utils"), None, f"apart {apart:.1e}")
    return [row(f"{work}, {size}", rival, ratio(seconds, "course_utils", rival))]


def report(work, who, seconds, times, megabytes, shown):
    memory = "–" if megabytes is None else f"{megabytes:.0f}"
    print(f"{work:22}{who:14}{seconds:10.4f}{times:9.2f}{memory:>8}  {shown}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048, help="of frechet_from_moments")
    parser.add_argument("--work", choices=[*ALONE, *HERE], nargs="+", default=[*ALONE, *HERE])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"one thread, {options.rounds} rounds, medians; {options.rows:,} rows")
    print(f"{'work':22}{'who':14}{'CPU s':>10}{'× ours':>9}{'MB':>8}  error / values / difference")
    return [one for work in options.work for one in (beside if work in ALONE else here)(work, options)]


if __name__ == "__main__":
    hand_over(__file__, main())
