"""How `course_utils.evaluate` compares with prdc, torchmetrics and scipy: CPU seconds on one thread, memory, error.

    python tests/benchmarks/bench_evaluate.py [--rounds 3] [--rows 10000] [--features 2048]

Each call runs in a fresh process, contestants in turn, and the median is shown: a ratio of two lines of one run says
something, a single time does not. Memory is what the call adds to the peak. Error is against an answer known to
float64: the brute-force sum for the kernel, the closed form of an optimal transport for the Fréchet distance.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
WORK = {
    "precision_recall": ["course_utils", "prdc"],
    "kernel_distance": ["course_utils", "torchmetrics"],
    "frechet": ["course_utils", "torchmetrics", "scipy sqrtm"],
}


def feature_sets(rows):
    import torch

    rng = torch.Generator().manual_seed(0)
    return torch.randn(rows, 64, generator=rng), 1.05 * torch.randn(rows, 64, generator=rng)


def gaussians(d):
    """Two covariances and their distance: the image of Σ under a positive T lies at tr (I − T) Σ (I − T)."""
    import torch

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
        from course_utils.evaluate import precision_recall

        return lambda: precision_recall(real, fake, k=5), lambda got: got
    if work == "kernel_distance":
        real, fake = feature_sets(rows)

        def error(got):
            return abs(got / brute_force_kernel(real.double().numpy(), fake.double().numpy()) - 1)

        if contestant == "torchmetrics":
            from torchmetrics.image.kid import poly_mmd

            return lambda: poly_mmd(real, fake).item(), error
        from course_utils.evaluate import kernel_distance

        return lambda: kernel_distance(real, fake)[0], error
    mean, cov_r, cov_f, known = gaussians(d)
    size = cov_r.trace().item()
    if contestant == "torchmetrics":
        from torchmetrics.image.fid import _compute_fid

        return lambda: _compute_fid(mean, cov_r, mean, cov_f).item(), lambda got: abs(got - known) / size
    if contestant == "scipy sqrtm":
        from scipy.linalg import sqrtm

        a, b = cov_r.numpy(), cov_f.numpy()
        return lambda: float((a + b).trace() - 2 * sqrtm(a @ b).trace().real), lambda got: abs(got - known) / size
    from course_utils.evaluate import frechet_from_moments

    return lambda: frechet_from_moments(mean, cov_r, mean, cov_f), lambda got: abs(got - known) / size


def brute_force_kernel(x, y):
    """All pairs in float64, a few rows at a time so that the peak stays low."""
    d, n, m = x.shape[1], len(x), len(y)

    def total(a, b):
        return sum(float(((a[i : i + 200] @ b.T / d + 1) ** 3).sum()) for i in range(0, len(a), 200))

    own = [(total(a, a) - float((((a * a).sum(1) / d + 1) ** 3).sum())) / (len(a) * (len(a) - 1)) for a in (x, y)]
    return sum(own) - 2 * total(x, y) / (n * m)


def child(work, contestant, rows, d):
    import torch

    torch.set_num_threads(1)
    call, answer = call_and_answer(work, contestant, rows, d)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    got = call()
    seconds, peak = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": seconds, "megabytes": (peak - before) / 1024, "answer": answer(got)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=2048, help="of the Fréchet distance")
    parser.add_argument("--work", choices=WORK, nargs="+", default=list(WORK))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(*options.child, options.rows, options.features)

    print(
        f"one thread, {options.rounds} rounds, medians; rows {options.rows:,} × 64, Fréchet {options.features} features"
    )
    print(f"{'work':18}{'who':15}{'CPU s':>8}{'× ours':>8}{'MB':>8}{'× ours':>8}  error / values")
    for work in options.work:
        runs = {who: [] for who in WORK[work]}
        for _ in range(options.rounds):
            for who in runs:
                command = [sys.executable, __file__, "--rows", str(options.rows), "--features", str(options.features)]
                done = subprocess.run(
                    [*command, "--child", work, who],
                    env=os.environ | ONE_THREAD,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                runs[who].append(json.loads(done.stdout.splitlines()[-1]))
        ours = None
        for who, results in runs.items():
            seconds, megabytes = (statistics.median(r[key] for r in results) for key in ("seconds", "megabytes"))
            ours = ours or (seconds, megabytes)
            answer = results[0]["answer"]
            shown = f"{answer:.1e}" if isinstance(answer, float) else " ".join(f"{v:.5f}" for v in answer.values())
            times = f"{seconds:8.2f}{seconds / ours[0]:8.2f}{megabytes:8.0f}{megabytes / max(ours[1], 1):8.1f}"
            print(f"{work:18}{who:15}{times}  {shown}", flush=True)


if __name__ == "__main__":
    main()
