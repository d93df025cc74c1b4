"""Features → statistics → one number, and how sure we are of it.

Every statistic is computed in float64 on the CPU, so that it is the same wherever the features were made. Feature
matrices (N, D) and lists of values may be torch tensors (any device) or NumPy arrays; pairs are always (real, fake).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data import ImageSet, to_signed

Matrix = Tensor | np.ndarray

# ---------------------------------------------------------------------------------------------------------------------
# Features
# ---------------------------------------------------------------------------------------------------------------------


def features(encoder: Callable[[Tensor], Tensor], images: ImageSet | Tensor, *, batch_size: int = 256) -> Tensor:
    """Return what `encoder` says about each image: (N, D), float64, on the CPU.

    `encoder`: any callable x (B, C, H, W) float32 in [-1, 1] → (B, D). A module, or a bound method of one such as
    ``net.features``, runs in eval mode and without gradients, on the device of its parameters; afterwards each of its
    submodules has the training flag it had before. (The network inside a lambda cannot be seen: call ``net.eval()``.)
    `images`: an ImageSet or uint8 (N, C, H, W). `batch_size` changes memory, not the result.

    Raises ValueError for floats (see below), an empty set, an output that is not (B, D) or not finite.
    Floats are refused because nobody can tell whether they lie in [0, 1], [-1, 1] or [0, 255]: scaled twice, real
    and fake both turn nearly black, and nearly black images match each other perfectly.

    Taught in: 10_quality_metrics

    >>> dark_and_bright = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    >>> features(lambda x: x.flatten(1), dark_and_bright).tolist()
    [[-1.0], [1.0]]
    """
    batches = list(_outputs(encoder, images, batch_size))
    result = torch.cat(batches).double()  # (N, D)
    if not result.isfinite().all():
        row = int((~result.isfinite()).any(1).nonzero()[0])
        raise ValueError(f"features must be finite, got {_first_bad(result)} in row {row}: has the encoder diverged?")
    return result


def accuracy(net: Callable[[Tensor], Tensor], part: ImageSet) -> float:
    """Return the share of rows whose largest logit is their label, in [0, 1].

    `net`: x (B, C, H, W) in [-1, 1] → logits (B, K); eval mode, then restored, as in `features`.

    Raises ValueError for an empty set, unlabelled rows (label -1), a label that no logit stands for, or non-finite
    logits.

    Taught in: 00_start_here
    """
    if not isinstance(part, ImageSet):
        raise ValueError(f"part must be an ImageSet (images with labels), got {type(part).__name__}")
    unlabelled = int((part.labels == -1).sum())
    if unlabelled:
        raise ValueError(f"accuracy needs labels, got {unlabelled} of {len(part)} rows with label -1: select them away")
    logits = torch.cat(list(_outputs(net, part, 256)))  # (N, K)
    if not logits.isfinite().all():
        raise ValueError(f"logits must be finite, got {_first_bad(logits)}")
    largest = int(part.labels.max())
    if largest >= logits.shape[1]:
        raise ValueError(f"net returns {logits.shape[1]} logits, but there is a label {largest}")
    return (logits.argmax(1) == part.labels.cpu()).double().mean().item()


def _outputs(encoder: Callable[[Tensor], Tensor], images: ImageSet | Tensor, batch_size: int) -> Iterator[Tensor]:
    """encoder(images) batch by batch, each (B, D) on the CPU; the module behind it in eval mode meanwhile."""
    images = images.images if isinstance(images, ImageSet) else images
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        what = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(
            f"images must be an ImageSet or a uint8 tensor, got {what}: it is scaled to [-1, 1] here and only here, "
            "and floats may have been scaled before (double scaling makes all images nearly equal); see to_bytes"
        )
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"images must have shape (N, C, H, W) with N ≥ 1, got {tuple(images.shape)}")
    _whole_number(batch_size, "batch_size", 1)
    owner = getattr(encoder, "__self__", encoder)  # a bound method such as net.features belongs to net
    modules = list(owner.modules()) if isinstance(owner, torch.nn.Module) else []
    flags = [module.training for module in modules]
    tensors = [*owner.parameters(), *owner.buffers()] if modules else []
    device = tensors[0].device if tensors else images.device
    try:
        for module in modules:
            module.training = False  # not .eval(): a module may override it, and this is what is restored
        with torch.no_grad():
            for chunk in images.split(batch_size):
                output = encoder(to_signed(chunk.to(device)))
                if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(chunk):
                    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                    raise ValueError(f"encoder must return (B, D), one row per image: {len(chunk)} images gave {shape}")
                yield output.cpu()
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag


# ---------------------------------------------------------------------------------------------------------------------
# Fréchet distance: two Gaussians
# ---------------------------------------------------------------------------------------------------------------------


def moments(features: Matrix) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the unbiased covariance (D, D) of feature rows (N, D), float64.

    Raises ValueError for fewer than 2 rows, NaN or infinity, or a shape other than (N, D).

    Taught in: 10_quality_metrics

    >>> mean, covariance = moments(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
    >>> mean.tolist(), covariance.tolist()
    ([1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
    """
    return _moments(_rows(features, "features"), "features")


def frechet_from_moments(mean_r: Matrix, cov_r: Matrix, mean_f: Matrix, cov_f: Matrix) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance of two Gaussians, ≥ 0, in squared feature units.

        d² = ‖μ_r − μ_f‖² + tr Σ_r + tr Σ_f − 2 tr (Σ_r Σ_f)^½

    With A Aᵀ = Σ_r and B Bᵀ = Σ_f the last trace is the sum of the singular values of Aᵀ B: no square root of a
    non-symmetric matrix, no complex numbers, and nothing added to the diagonal when a covariance is singular. What
    rounding leaves below zero is returned as 0.

    `mean_*`: (D,); `cov_*`: (D, D), symmetric, positive semi-definite.

    Raises ValueError for NaN or infinity, shapes that do not fit together, a covariance that is not symmetric or has
    a negative eigenvalue beyond rounding.

    Source: Dowson & Landau 1982, equation 4; as a score, Heusel et al. 2017 (arXiv:1706.08500), equation 6.
    Taught in: 10_quality_metrics

    >>> zero, one = torch.zeros(1), torch.eye(1)
    >>> frechet_from_moments(zero, one, zero + 3, 4 * one)   # (0 − 3)² + (1 − 2)²
    10.0
    """
    mean_r, mean_f = _vector(mean_r, "mean_r"), _vector(mean_f, "mean_f")
    factor_r = _factor(_covariance(cov_r, "cov_r", len(mean_r)), "cov_r")
    factor_f = _factor(_covariance(cov_f, "cov_f", len(mean_f)), "cov_f")
    if len(mean_r) != len(mean_f):
        raise ValueError(f"real and fake must have equally many features, got {len(mean_r)} and {len(mean_f)}")
    return _frechet(mean_r, factor_r, mean_f, factor_f)


def frechet_distance(real: Matrix, fake: Matrix) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to two sets of features, ≥ 0.

    `real` (N, D), `fake` (M, D); N and M may differ. The equation is that of `frechet_from_moments`.
    The estimate is biased upwards, the more so the fewer the rows and the more the features: state N, keep it equal
    for score and floor. Fewer rows than features, and constant features, are answered (the covariance is singular
    and the bias large). It sees two moments and nothing else.

    Raises ValueError for fewer than 2 rows, NaN or infinity, or different D.

    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6; the bias: Bińkowski et al. 2018 (arXiv:1801.01401).
    Taught in: 10_quality_metrics

    >>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> round(frechet_distance(x, x + 1.0), 6)   # a shift by 1 in each of 8 features
    8.0
    """
    real, fake = _pair(real, fake)
    (mean_r, factor_r), (mean_f, factor_f) = _fitted(real, "real"), _fitted(fake, "fake")
    return _frechet(mean_r, factor_r, mean_f, factor_f)


def _moments(rows: Tensor, name: str) -> tuple[Tensor, Tensor]:
    mean = rows.mean(0)
    centred = rows - mean
    covariance = centred.T @ centred / (len(rows) - 1)
    _no_overflow(covariance.sum().item(), f"covariance of {name}")
    return mean, covariance


def _fitted(rows: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The mean and a factor A of the covariance, A Aᵀ = Σ."""
    if len(rows) <= rows.shape[1]:  # the centred data are a factor already, thinner than any of Σ
        mean = rows.mean(0)
        return mean, (rows - mean).T / math.sqrt(len(rows) - 1)
    mean, covariance = _moments(rows, name)
    return mean, _factor(covariance, name)


def _frechet(mean_r: Tensor, factor_r: Tensor, mean_f: Tensor, factor_f: Tensor) -> float:
    traces = factor_r.square().sum() + factor_f.square().sum()
    cross = _sum_of_singular_values(factor_r.T @ factor_f, 1e-12 * traces)
    value = ((mean_r - mean_f).square().sum() + traces - 2 * cross).item()
    return max(0.0, _no_overflow(value, "Fréchet distance"))


def _sum_of_singular_values(matrix: Tensor, tolerance: Tensor) -> Tensor:
    if min(matrix.shape) > 256:
        # Eigenvalues of MᵀM come several times faster. But a rounding error e of σ² is one of e/2σ in σ, so they serve
        # only where that adds up to nothing.
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        squares = torch.linalg.eigvalsh(tall.T @ tall)
        error = math.sqrt(len(squares)) * torch.finfo(squares.dtype).eps * squares[-1]
        if squares[0] > error and (error / (2 * squares.sqrt())).sum() < tolerance:
            return squares.sqrt().sum()
    return torch.linalg.svdvals(matrix).sum()


def _factor(covariance: Tensor, name: str) -> Tensor:
    """A with A Aᵀ = Σ: Cholesky, or the eigenvectors when Σ is singular.

    Both work on the correlation matrix, so that a feature of tiny variance is not mistaken for a rounding error
    beside one of large variance.
    """
    scale = covariance.diagonal().sqrt()  # (D,)
    divisor = torch.where(scale > 0, scale, 1.0)
    correlation = covariance / divisor[:, None] / divisor
    rounding = 10 * len(scale) * torch.finfo(torch.float64).eps
    factor, failed = torch.linalg.cholesky_ex(correlation)
    if not failed and factor.diagonal().min().square() > rounding:
        return scale[:, None] * factor
    values, vectors = torch.linalg.eigh(correlation)
    if values[0] < -1e-6:  # float32 covariances come with eigenvalues down to about −1e-7
        raise ValueError(
            f"{name} must be positive semi-definite, but its correlation matrix has the eigenvalue {values[0]:.3g}"
        )
    kept = values > rounding  # what is below is zero up to rounding, and its root would be 1e8 times larger
    return scale[:, None] * vectors[:, kept] * values[kept].sqrt()


# ---------------------------------------------------------------------------------------------------------------------
# Kernel distance: all third moments
# ---------------------------------------------------------------------------------------------------------------------


def kernel_distance(
    real: Matrix, fake: Matrix, rng: torch.Generator | None = None, *, subset: int | None = None, repeats: int = 50
) -> tuple[float, float]:
    """Return the kernel distance (squared MMD, cubic kernel) and a standard error.

        MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_{i,j} k(x_i, y_j),   k(x, y) = (x·y/D + 1)³

    `real` (N, D), `fake` (M, D). Unbiased: 0 on average when both come from one law, hence NEGATIVE about half of the
    time then; it is not clipped. It compares all moments up to the third.

    Without `subset`: all pairs, exactly; nothing is drawn, `rng` is not used. The standard error is the two-sample
    jackknife's, for fresh samples of both sets: leave out each row in turn, var = (N−1)/N Σ_i (v₋ᵢ − v̄)² over the
    real rows plus the same over the fake ones. Between equal laws it errs on the large side (the estimate is
    degenerate there). NaN when a set has only 2 rows.
    With `subset` (needs `rng`): the mean over `repeats` subsets of that many rows, drawn from both sets without
    replacement, and the standard deviation over subsets divided by √repeats. That error is the spread of the
    SUBSAMPLING only: it says how far this number is from the all-pairs number of the SAME rows, goes to 0 with more
    repeats, and says nothing about another sample.

    Raises ValueError for fewer than 2 rows, NaN or infinity, different D, a subset below 2 or larger than either set,
    a subset without rng, fewer than 2 repeats.

    Source: Gretton et al. 2012 (JMLR 13:723), equation 3; Bińkowski et al. 2018 (arXiv:1801.01401); the two-sample
    jackknife: Arvesen 1969. Taught in: 10_quality_metrics

    >>> x = torch.tensor([[0.0], [0.0], [0.0]])
    >>> kernel_distance(x, x + 1.0)   # 1 + (1 + 1)³ − 2·1
    (7.0, 0.0)
    """
    real, fake = _pair(real, fake)
    if subset is None:
        return _all_pairs(real, fake)
    _whole_number(subset, "subset", 2)
    _whole_number(repeats, "repeats", 2)
    if subset > min(len(real), len(fake)):
        raise ValueError(f"subset must not exceed the {len(real)} real or {len(fake)} fake rows, got {subset}")
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"subset={subset} draws at random and needs rng, a torch.Generator, got {rng!r}")

    def drawn(rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=rng, device=rng.device)[:subset].cpu()]

    values = torch.tensor([_all_pairs(drawn(real), drawn(fake))[0] for _ in range(repeats)], dtype=torch.float64)
    return values.mean().item(), (values.std() / math.sqrt(repeats)).item()


def _all_pairs(real: Tensor, fake: Tensor) -> tuple[float, float]:
    """MMD² over all pairs and its jackknife error, both from the row sums of the three kernel matrices."""
    n, m = len(real), len(fake)
    x, y = (
        torch.cat([rows / math.sqrt(rows.shape[1]), torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
        for rows in (real, fake)
    )  # the constant makes the kernel a pure cube: k = (x̃·ỹ)³
    # Moments cost about 3 D³ per row, blocks D (N + M): the third moment of 256 features takes 70 MB.
    small = x.shape[1] <= 257 and 3 * x.shape[1] ** 2 <= n + m
    xx, xy, yx, yy = (_sums_by_moments if small else _sums_by_blocks)(x, y)
    xx -= x.square().sum(1) ** 3  # a row is no pair with itself
    yy -= y.square().sum(1) ** 3
    total_xx, total_yy, total_xy = xx.sum(), yy.sum(), xy.sum()
    value = total_xx / (n * (n - 1)) + total_yy / (m * (m - 1)) - 2 * total_xy / (n * m)
    _no_overflow(value.item(), "kernel distance")
    if min(n, m) < 3:
        return value.item(), math.nan
    # The value without row i, from the sums with it; constants that all of them share drop out of the variance.
    without_x = (total_xx - 2 * xx) / ((n - 1) * (n - 2)) - 2 * (total_xy - xy) / ((n - 1) * m)  # (N,)
    without_y = (total_yy - 2 * yy) / ((m - 1) * (m - 2)) - 2 * (total_xy - yx) / ((m - 1) * n)  # (M,)
    variance = (n - 1) * without_x.var(correction=0) + (m - 1) * without_y.var(correction=0)
    return value.item(), variance.sqrt().item()


def _sums_by_blocks(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row sums of the kernel matrices xx, xy, yx, yy, a few million entries at a time."""
    xx, xy, yx, yy = (torch.zeros(len(rows), dtype=x.dtype) for rows in (x, x, y, y))
    for left, right, left_sums, right_sums in ((x, x, xx, None), (x, y, xy, yx), (y, y, yy, None)):
        step = max(1, 2**21 // len(right))
        for i in range(0, len(left), step):
            gram = left[i : i + step] @ right.T
            kernel = gram.square().mul_(gram)
            left_sums[i : i + step] = kernel.sum(1)
            if right_sums is not None:
                right_sums += kernel.sum(0)
    return xx, xy, yx, yy


def _sums_by_moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same row sums without any pair: Σ_j (x_i·y_j)³ = ⟨x_i⊗x_i⊗x_i, Σ_j y_j⊗y_j⊗y_j⟩."""
    d = x.shape[1]
    third_x, third_y = (sum(chunk.T @ products.T for chunk, products in _products(rows)) for rows in (x, y))
    twice = torch.cat([torch.tensor([1.0] + [2.0] * (d - i - 1), dtype=x.dtype) for i in range(d)])  # x_i x_j = x_j x_i
    both = torch.cat([third_x, third_y]) * twice  # (2d, d(d+1)/2)

    def contracted(rows: Tensor) -> tuple[Tensor, Tensor]:
        sums = [((both @ products).view(2, d, -1) * chunk.T).sum(1) for chunk, products in _products(rows)]
        return torch.cat(sums, 1).unbind()

    (xx, xy), (yx, yy) = contracted(x), contracted(y)
    return xx, xy, yx, yy


def _products(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a chunk (B, d) of the rows and its products x_i x_j, i ≤ j, (d(d+1)/2, B); the second is reused."""
    d = rows.shape[1]
    buffer = torch.empty(d * (d + 1) // 2, 256, dtype=rows.dtype)
    for chunk in rows.split(256):  # few enough to stay in the cache
        columns = chunk.T.contiguous()
        products = buffer[:, : len(chunk)]
        for i, place in enumerate(products.split(list(range(d, 0, -1)))):
            torch.mul(columns[i:], columns[i], out=place)
        yield chunk, products


# ---------------------------------------------------------------------------------------------------------------------
# Classifier score
# ---------------------------------------------------------------------------------------------------------------------


def inception_score(probabilities: Matrix, *, splits: int = 10) -> tuple[float, float]:
    """Return the mean and the standard deviation over `splits` chunks of the classifier ("inception") score, 1 to K.

        IS = exp( mean_n KL( p(y|x_n) ‖ p̄(y) ) ),   p̄ = mean_n p(y|x_n) within the chunk

    `probabilities`: (N, K), rows that sum to 1. Chunks are CONTIGUOUS and as equal as possible: the caller shuffles
    (sorted by class, each chunk holds one class and scores 1). The standard deviation is that of the population of
    chunks, 0 with one chunk. The score is 1 when all predictions of a chunk are equal, and K only for certain
    predictions with balanced classes in each chunk. It never looks at a real image; one perfect image per class,
    repeated, scores K. Rows are not renormalised.

    Raises ValueError for fewer than 2 rows, NaN or infinity, negative entries, a row whose sum is off 1 by more than
    1e-4, splits below 1 or above N.

    Source: Salimans et al. 2016 (arXiv:1606.03498), section 4. Taught in: 10_quality_metrics

    >>> [round(number, 9) for number in inception_score(torch.eye(3).repeat(20, 1), splits=2)]   # certain, balanced: K
    [3.0, 0.0]
    """
    p = _rows(probabilities, "probabilities")
    _whole_number(splits, "splits", 1)
    if splits > len(p):
        raise ValueError(f"splits must not exceed the {len(p)} rows, got {splits}")
    if p.min() < 0:
        raise ValueError(f"probabilities must not be negative, got {p.min():g}: softmax comes first")
    off = (p.sum(1) - 1).abs()
    if off.max() > 1e-4:
        row = int(off.argmax())
        raise ValueError(f"each row of probabilities must sum to 1, row {row} sums to {p[row].sum():g}")
    scores = torch.stack([_one_score(chunk) for chunk in p.tensor_split(splits)])
    return scores.mean().item(), scores.std(correction=0).item()


def _one_score(p: Tensor) -> Tensor:
    # xlogy: 0 log 0 = 0; a difference of logarithms, since a quotient of tiny numbers may overflow
    marginal = p.mean(0)
    divergence = (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1)
    return divergence.mean().exp()


# ---------------------------------------------------------------------------------------------------------------------
# Neighbours: precision and recall, the nearest row
# ---------------------------------------------------------------------------------------------------------------------


def precision_recall(real: Matrix, fake: Matrix, *, k: int = 5) -> dict[str, float]:
    """Return precision, recall, density and coverage of fake features against real ones.

    Around each row lies a ball that reaches to its k-th nearest neighbour in its own set, itself excluded; a row is
    inside when its distance is strictly smaller than the radius.

        precision   share of fake rows inside at least one real ball
        recall      share of real rows inside at least one fake ball
        density     mean over fake rows of (number of real balls around it) / k; may exceed 1
        coverage    share of real balls that hold at least one fake row

    `real` (N, D), `fake` (M, D), `k` < N and < M. Under one law density is 1 on average and coverage
    1 − ∏_{i=1…k} (N − i)/(N + M − i); precision and recall stay below 1. Real outliers inflate precision, fake
    outliers recall, and a memoriser passes all four. A point that its own set holds k + 1 times has the radius 0: its
    ball is empty.

    Every comparison is decided in float64 from the difference of the two rows. A float32 matrix product with a proven
    error bound only finds the pairs that are worth it, so memory grows with N + M, not with N·M.

    Raises ValueError for fewer than 2 rows, NaN or infinity, different D, k below 1 or not below both N and M.

    Source: Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1–3; Naeem et al. 2020 (arXiv:2002.09797),
    equations 3–6. Taught in: 10_quality_metrics

    >>> real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> precision_recall(real, real + 0.25, k=1)
    {'precision': 1.0, 'recall': 1.0, 'density': 1.75, 'coverage': 1.0}
    """
    real, fake = _pair(real, fake)
    _whole_number(k, "k", 1)
    if k >= min(len(real), len(fake)):
        raise ValueError(f"k must be smaller than the {len(real)} real and the {len(fake)} fake rows, got {k}")
    x, y, _ = _same_scale(real, fake)
    radius_x = _kth_nearest(x, x, k, exclude_self=True)  # (N,) squared, like all distances below
    radius_y = _kth_nearest(y, y, k, exclude_self=True)  # (M,)
    balls_around = np.zeros(len(y), dtype=np.int64)  # real balls that hold fake row j
    filled, recalled = np.zeros(len(x), dtype=bool), np.zeros(len(x), dtype=bool)
    above_x, above_y = _above(radius_x), _above(radius_y)
    for start, lower in _lower_bounds(x, y):
        possible = lower < above_x[start : start + len(lower), None]
        possible |= lower < above_y
        i, j = np.divmod(np.flatnonzero(possible), len(y))
        i += start
        distance = _squared(x, y, i, j)
        in_real, in_fake = distance < radius_x[i], distance < radius_y[j]
        balls_around += np.bincount(j[in_real], minlength=len(y))
        filled[i[in_real]] = True
        recalled[i[in_fake]] = True
    return {
        "precision": float((balls_around > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(balls_around.mean() / k),
        "coverage": float(filled.mean()),
    }


def nearest(queries: Matrix, reference: Matrix) -> Tensor:
    """Return the Euclidean distance from each query to the nearest row of `reference`: (M,), float64.

    `queries` (M, ...), `reference` (N, ...): feature rows, or images, which are flattened. The unit is that of the
    input: for uint8 images grey levels (0 to 255·√(C·H·W)), for images in [-1, 1] it is 127.5 times smaller. Hence
    both must be bytes or both floats. A row that stands in both sets has the distance 0 exactly; with
    queries = reference every distance is 0, for a row is not kept from finding itself.

    Raises ValueError for an empty set, NaN or infinity, rows of different shapes, or bytes against floats.

    Taught in: 28_privacy

    >>> nearest(torch.tensor([[0.0, 0.0], [3.0, 5.0]]), torch.tensor([[3.0, 4.0], [9.0, 9.0]])).tolist()
    [5.0, 1.0]
    """
    queries, reference = (x if isinstance(x, Tensor) else np.asarray(x) for x in (queries, reference))
    shapes = tuple(queries.shape), tuple(reference.shape)
    if min(map(len, shapes)) < 2 or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(f"queries and reference must be (M, ...) and (N, ...) with equal rows, got {shapes}")
    if _is_bytes(queries) != _is_bytes(reference):
        raise ValueError("queries and reference must both be uint8 or both floats, got one of each: the units differ")
    flat = [x.reshape(len(x), -1) if len(x) else x for x in (queries, reference)]
    q, r, scale = _same_scale(_rows(flat[0], "queries", 1), _rows(flat[1], "reference", 1))
    return torch.from_numpy(np.sqrt(_kth_nearest(q, r, 1)) * scale)


def _same_scale(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """Both sets divided by the power of two above their largest entry: exact, and no square over- or underflows."""
    x, y = x.numpy(), y.numpy()
    scale = 2.0 ** math.frexp(max(np.abs(x).max(), np.abs(y).max()))[1]
    return x / scale, y / scale, scale


def _squared(x: np.ndarray, y: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Squared distances ‖x[i] − y[j]‖² of listed pairs, from differences: exactly 0 for equal rows, no cancellation."""
    result = np.empty(len(i))
    step = max(1, 2**20 // x.shape[1])
    for s in range(0, len(i), step):
        difference = x[i[s : s + step]] - y[j[s : s + step]]
        result[s : s + step] = np.einsum("pd,pd->p", difference, difference)
    return result


def _lower_bounds(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, lower): float32 numbers that are certainly ≤ ‖x[start + b] − y[j]‖², a block of rows at a time.

    ‖x‖² + ‖y‖² − 2 x·y comes out of one product of widened rows. Its rounding error, input rounding included, is below
    (2D + 7) u (‖x‖² + ‖y‖²) with u = 2⁻²⁴ (Higham 2002, section 3.1); that is taken off the norms. The block is reused.
    NumPy, because the precision of torch's float32 products is the user's choice (autocast, TF32, bfloat16).
    """
    centre = np.median(y, 0)  # one outlier would carry a mean away
    x, y = x - centre, y - centre  # small norms, small error
    error = (2 * x.shape[1] + 16) * 2.0**-24
    norm_x, norm_y = (((1 - error) * np.einsum("nd,nd->n", rows, rows))[:, None] for rows in (x, y))
    norm_x -= x.shape[1] * 2.0**-120  # products that underflow
    left = np.hstack([-2 * x, norm_x, np.ones_like(norm_x)]).astype(np.float32)  # (N, D + 2)
    right = np.hstack([y, np.ones_like(norm_y), norm_y]).astype(np.float32).T  # (D + 2, M)
    step = max(1, 2**21 // len(y))
    block = np.empty((min(step, len(x)), len(y)), dtype=np.float32)
    for start in range(0, len(x), step):
        rows = left[start : start + step]
        yield start, np.matmul(rows, right, out=block[: len(rows)])


def _kth_nearest(x: np.ndarray, y: np.ndarray, k: int, *, exclude_self: bool = False) -> np.ndarray:
    """Squared distance (N,) from each x to its k-th nearest y; with `exclude_self`, x is y and i = i does not count."""
    result = np.zeros(len(x))
    width = max(1, len(y) // (64 * k))
    groups = len(y) // width  # ≥ k, and a few columns may stay outside: any k columns bound the k-th distance
    offsets = np.arange(width)[:, None] * groups
    for start, lower in _lower_bounds(x, y):
        rows = np.arange(len(lower))
        if exclude_self:
            lower[rows, start + rows] = np.inf
        # 1. k columns that are probably near: the minimum of each group, then the k smallest minima.
        minima = lower[:, :groups].copy()
        for w in range(1, width):
            np.minimum(minima, lower[:, w * groups : (w + 1) * groups], out=minima)
        best = (
            np.argpartition(minima, k - 1, axis=1)[:, :k]
            if k < groups
            else np.broadcast_to(np.arange(groups), minima.shape)
        )
        members = best[:, None, :] + offsets  # (B, width, k)
        first = lower[rows[:, None, None], members].argmin(1)  # (B, k)
        columns = best + first * groups
        bound = _squared(x, y, np.repeat(start + rows, columns.shape[1]), columns.ravel()).reshape(columns.shape).max(1)
        # 2. Whatever may be at most as far, exactly; the k-th smallest of each row is the answer.
        i, j = np.divmod(np.flatnonzero(lower < _above(bound)[:, None]), len(y))
        distance = _squared(x, y, start + i, j)
        order = np.lexsort((distance, i))
        rows = rows[bound > 0]  # where the bound is 0 the answer is 0
        result[start + rows] = distance[order][np.searchsorted(i, rows) + k - 1]
    return result


def _above(x: np.ndarray) -> np.ndarray:
    """float32 numbers above the float64 ones; above 0, −∞: no squared distance is smaller than 0, do not search."""
    return np.where(x > 0, np.nextafter(x.astype(np.float32), np.float32(np.inf)), np.float32(-np.inf))


def _is_bytes(x: Matrix) -> bool:
    return x.dtype == (torch.uint8 if isinstance(x, Tensor) else np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# How sure? Intervals
# ---------------------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float] | Matrix, *, level: float = 0.95) -> tuple[float, float]:
    """Return (low, high), a confidence interval for the mean of `values`: Student's t.

        mean ± t_{(1+level)/2, n−1} · s / √n,   s with n − 1

    `values`: (n,), one number per seed, n ≥ 2; what the seed changes is what the interval covers. Exact for normal
    values. Equal values give an interval of width 0.

    Raises ValueError for fewer than 2 values, NaN or infinity, a shape other than (n,), a level outside (0, 1).

    Source: Student 1908. Taught in: 09_distributions

    >>> [round(end, 3) for end in interval([0.80, 0.82, 0.84])]
    [0.77, 0.87]
    """
    from scipy.special import stdtrit

    values = _vector(values, "values", 2)
    _check_level(level)
    mean, error = values.mean().item(), (values.std() / math.sqrt(len(values))).item()
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * error
    return mean - half, mean + half


def paired_interval(
    a: Sequence[float] | Matrix, b: Sequence[float] | Matrix, *, level: float = 0.95
) -> tuple[float, float]:
    """Return (low, high), a confidence interval for the mean of a − b, seed by seed.

    `a`, `b`: (n,), a[i] and b[i] from the same seed (same split, same initialisation), n ≥ 2. Positive: a is larger.
    An interval that holds 0 is a tie. What a seed does to both arms cancels, so this is narrower than a comparison of
    two intervals whenever the arms rise and fall together. Method: `interval` of the differences.

    Raises ValueError for different lengths, and whatever `interval` refuses.

    Source: Student 1908, the paired t-test. Taught in: 00_start_here

    >>> a, b = [0.71, 0.80, 0.90], [0.70, 0.78, 0.88]   # the seeds differ, the gain hardly
    >>> [round(end, 3) for end in paired_interval(a, b)]
    [0.002, 0.031]
    """
    a, b = _vector(a, "a", 2), _vector(b, "b", 2)
    if len(a) != len(b):
        raise ValueError(f"a and b must hold one value per seed, in the same order, got {len(a)} and {len(b)} values")
    return interval(a - b, level=level)


def bootstrap_interval(
    values: Sequence[float] | Matrix, rng: torch.Generator, *, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Return (low, high), a percentile bootstrap interval for the mean of per-example scores.

    `values`: (N,), one score per example, N ≥ 30, independent of each other; below that the percentile interval is
    too narrow (use `interval`). It covers the choice of examples, not the seed of the training. `rng` draws the
    `resamples` samples of N values with replacement, on its own device.

    Raises ValueError for fewer than 30 values, NaN or infinity, a level outside (0, 1), fewer than 100 resamples, or
    no generator.

    Source: Efron 1979; Efron & Tibshirani 1993, chapter 13. Taught in: 09_distributions

    >>> correct = torch.cat([torch.ones(80), torch.zeros(20)])   # 80 of 100: 0.80 ± 1.96 · 0.04
    >>> [round(end, 1) for end in bootstrap_interval(correct, torch.Generator().manual_seed(0))]
    [0.7, 0.9]
    """
    values = _vector(values, "values", 30)
    _check_level(level)
    _whole_number(resamples, "resamples", 100)
    if not isinstance(rng, torch.Generator):
        raise ValueError(f"rng must be a torch.Generator, got {type(rng).__name__}")
    n, means = len(values), []
    for chunk in torch.arange(resamples).split(max(1, 2**20 // n)):
        rows = torch.randint(n, (len(chunk), n), generator=rng, device=rng.device).cpu()
        means.append(values[rows].mean(1))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values.dtype)
    low, high = torch.cat(means).quantile(ends).tolist()
    return low, high


# ---------------------------------------------------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------------------------------------------------


def _float64(x: Any, name: str) -> Tensor:
    """x as a finite float64 tensor on the CPU."""
    if isinstance(x, Tensor):
        if x.is_complex():
            raise ValueError(f"{name} must hold real numbers, got {x.dtype}")
        x = x.detach().cpu().double()
    else:
        array = np.asarray(x)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{name} must hold real numbers, got {type(x).__name__} of dtype {array.dtype}")
        x = torch.from_numpy(np.require(array, np.float64, ["C", "W"]))
    if not x.isfinite().all():
        raise ValueError(f"{name} must be finite, got {_first_bad(x)}")
    return x


def _first_bad(x: Tensor) -> float:
    return x[~x.isfinite()][0].item()


def _rows(x: Any, name: str, least: int = 2) -> Tensor:
    x = _float64(x, name)
    if x.ndim != 2 or len(x) < least or x.shape[1] < 1:
        raise ValueError(f"{name} must have shape (N, D) with N ≥ {least} rows and D ≥ 1, got {tuple(x.shape)}")
    return x.contiguous()


def _pair(real: Any, fake: Any) -> tuple[Tensor, Tensor]:
    real, fake = _rows(real, "real"), _rows(fake, "fake")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"real and fake must have equally many features, got {real.shape[1]} and {fake.shape[1]}")
    return real, fake


def _vector(x: Any, name: str, least: int = 1) -> Tensor:
    x = _float64(x, name)
    if x.ndim != 1 or len(x) < least:
        raise ValueError(f"{name} must have shape (n,) with n ≥ {least}, got {tuple(x.shape)}")
    return x


def _covariance(x: Any, name: str, d: int) -> Tensor:
    x = _float64(x, name)
    if x.shape != (d, d):
        raise ValueError(f"{name} must have shape ({d}, {d}) like its mean, got {tuple(x.shape)}")
    skew = (x - x.T).abs().max().item()
    if skew > 1e-6 * x.abs().max().item():
        raise ValueError(f"{name} must be symmetric, but entries across the diagonal differ by {skew:.3g}")
    if x.diagonal().min() < 0:
        raise ValueError(f"{name} must be positive semi-definite, got the variance {x.diagonal().min():.3g}")
    return (x + x.T) / 2


def _no_overflow(value: float, what: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"the {what} is {value}: the inputs are too large for float64, scale them down")
    return value


def _whole_number(value: Any, name: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
