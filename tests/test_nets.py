import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.nets import VAE, Classifier, Discriminator, Generator, StackedLinear, stacked_mlp


def _rng(seed):
    return torch.Generator().manual_seed(seed)


def _images(count=3, channels=1, size=8, seed=0):
    return torch.rand(count, channels, size, size, generator=_rng(seed)) * 2 - 1


# Image nets


@pytest.mark.parametrize("size", [8, 9, 12, 14, 15, 16, 28, 31, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_classifier_takes_any_side_from_8(size, channels):
    net = Classifier(7, channels=channels, dim=16)
    x = _images(2, channels, size)
    assert net(x).shape == (2, 7)
    assert net.features(x).shape == (2, 16)
    assert (net.features(x) >= 0).all()


def test_classifier_head_reads_the_features():
    net = Classifier(10, dropout=0.5).eval()
    x = _images(4, size=28)
    assert torch.equal(net(x), net.head(net.features(x)))
    assert Classifier(10).hidden.out_features == 64


def test_classifier_pools_cover_the_image_and_keep_places_apart():
    net = Classifier(10)
    for layer in (net.conv1, net.conv2, net.hidden):
        nn.init.constant_(layer.weight, 0.01)  # all positive: no ReLU hides a path
        nn.init.constant_(layer.bias, 0.5)
    for size in (8, 9, 13, 28, 31, 32):
        x = torch.randn(1, 1, size, size, generator=_rng(size)).requires_grad_()
        net.features(x).sum().backward()
        assert (x.grad[0, 0].abs().sum(dim=0) > 0).all() and (x.grad[0, 0].abs().sum(dim=1) > 0).all()

    torch.manual_seed(0)
    corners = torch.full((2, 1, 8, 8), -1.0)
    corners[0, 0, 0, 0] = corners[1, 0, -1, -1] = 1.0
    first, second = Classifier(10).features(corners)
    assert (first - second).abs().max() > 1e-3


def test_classifier_dropout_acts_in_training_only():
    net = Classifier(10, dropout=0.5)
    x = _images(4)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_classifier_learns_ten_templates():
    torch.manual_seed(0)
    net = Classifier(10, width=8)
    templates = _images(10, size=8, seed=3)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(30):
        noisy = templates + 0.1 * torch.randn(10, 1, 8, 8)
        optimiser.zero_grad()
        F.cross_entropy(net(noisy), torch.arange(10)).backward()
        optimiser.step()
    assert (net(templates).argmax(1) == torch.arange(10)).all()


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3)])
def test_vae_shapes(size, channels):
    vae = VAE(5, size=size, channels=channels, hidden=12)
    x = _images(3, channels, size)
    mean, log_var = vae.encode(x)
    assert mean.shape == log_var.shape == (3, 5)
    assert not torch.equal(mean, log_var)
    assert vae.decode(mean).shape == x.shape
    assert torch.equal(vae(x), vae.decode(mean))


def test_vae_is_784_400_20_by_default():
    vae = VAE()
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    assert parameters == (784 * 400 + 400) + (400 * 40 + 40) + (20 * 400 + 400) + (400 * 784 + 784)


@pytest.mark.parametrize("size", [8, 12, 16, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_gan_nets_fit_together(size, channels):
    gen = Generator(6, size=size, channels=channels, width=8)
    disc = Discriminator(size=size, channels=channels, width=8)
    fake = gen(10 * torch.randn(5, 6))
    assert fake.shape == (5, channels, size, size)
    assert fake.abs().max() <= 1
    assert disc(fake).shape == (5,)


def test_discriminator_judges_each_image_alone():
    """A planted BatchNorm breaks it: that is why there is none."""
    x = _images(4, size=8)
    disc = Discriminator(size=8, width=8)
    assert torch.allclose(disc(x)[:1], disc(x[:1]), atol=1e-6)
    broken = Discriminator(size=8, width=8)
    broken.layers.insert(1, nn.BatchNorm2d(8))
    assert not torch.allclose(broken(x)[:1], broken(x[:1]), atol=1e-3)


@pytest.mark.parametrize(
    ("make", "bad", "message"),
    [
        (lambda: Classifier(3), torch.zeros(1, 8, 8), r"\(1, 8, 8\)"),
        (lambda: Classifier(3), torch.zeros(2, 3, 8, 8), r"\(B, 1, .*\(2, 3, 8, 8\)"),
        (lambda: Classifier(3), torch.zeros(2, 1, 7, 8), r"H>=8.*\(2, 1, 7, 8\)"),
        (lambda: Classifier(3), torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "uint8.*to_signed"),
        (lambda: Classifier(3), [[0.0]], "list"),
        (lambda: VAE(2).encode, torch.zeros(2, 1, 8, 8), r"\(B, 1, 28, 28\).*\(2, 1, 8, 8\)"),
        (lambda: VAE(2).encode, torch.zeros(2, 784), r"\(2, 784\)"),
        (lambda: VAE(2).encode, torch.zeros(2, 3, 28, 28), r"\(2, 3, 28, 28\)"),
        (lambda: VAE(2).decode, torch.zeros(2, 3), r"\(B, 2\).*\(2, 3\)"),
        (lambda: VAE(2).decode, torch.zeros(2, 2, dtype=torch.int64), "int64"),
        (lambda: Generator(4), torch.zeros(4), r"\(B, 4\).*\(4,\)"),
        (lambda: Generator(4), torch.zeros(2, 4, 1, 1), r"\(2, 4, 1, 1\)"),
        (lambda: Generator(4), None, "NoneType"),
        (lambda: Discriminator(size=8), torch.zeros(2, 1, 28, 28), r"\(B, 1, 8, 8\).*\(2, 1, 28, 28\)"),
        (lambda: Discriminator(size=8, channels=3), torch.zeros(2, 1, 8, 8), r"\(B, 3, 8, 8\)"),
    ],
)
def test_wrong_inputs_are_named(make, bad, message):
    net = make()
    with pytest.raises(ValueError, match=message):
        net(bad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classifier(0), "classes.*0"),
        (lambda: Classifier(2, channels=0), "channels.*0"),
        (lambda: Classifier(2, dim=-1), "dim.*-1"),
        (lambda: Classifier(2, width=1.5), "width.*1.5"),
        (lambda: Classifier(2, dropout=1.0), "dropout.*1.0"),
        (lambda: Classifier(2, dropout=float("nan")), "dropout.*nan"),
        (lambda: VAE(0), "latent.*0"),
        (lambda: VAE(2, hidden=0), "hidden.*0"),
        (lambda: VAE(2, size=0), "size.*0"),
        (lambda: VAE(True), "latent.*True"),
        (lambda: Generator(0), "latent.*0"),
        (lambda: Generator(2, size=10), "multiple of 4.*10"),
        (lambda: Generator(2, size=4), "at least 8.*4"),
        (lambda: Generator(2, channels=0), "channels.*0"),
        (lambda: Discriminator(size=30), "multiple of 4.*30"),
        (lambda: Discriminator(width=0), "width.*0"),
    ],
)
def test_wrong_sizes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Stacked nets


def _separate_mlp(sizes, seed):
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_stacked_linear_starts_exactly_like_nn_linear():
    layer = StackedLinear(3, 5, 4, [_rng(seed) for seed in (7, 8, 9)])
    for member, seed in enumerate((7, 8, 9)):
        torch.manual_seed(seed)
        single = nn.Linear(5, 4)
        assert torch.equal(layer.weight[member].T, single.weight)
        assert torch.equal(layer.bias[member, 0], single.bias)


def test_stacked_linear_is_the_product_of_each_member():
    layer = StackedLinear(4, 6, 2, [_rng(seed) for seed in range(4)])
    x = torch.randn(4, 5, 6, generator=_rng(0))
    by_hand = torch.stack([x[s] @ layer.weight[s] + layer.bias[s] for s in range(4)])
    assert torch.allclose(layer(x), by_hand, atol=1e-6)


def test_one_generator_draws_the_members_in_turn():
    layer = StackedLinear(2, 3, 3, _rng(0))
    assert torch.equal(layer.weight[0], StackedLinear(1, 3, 3, _rng(0)).weight[0])
    assert not torch.equal(layer.weight[0], layer.weight[1])


def _train_stacked(sizes, seeds, x, y, *, steps, reduce):
    """x (S, N, inputs), y (S, N)."""
    nets = stacked_mlp(sizes, [_rng(seed) for seed in seeds])
    optimiser = torch.optim.Adam(nets.parameters(), 1e-2)
    for _ in range(steps):
        loss = F.cross_entropy(nets(x).flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
        optimiser.zero_grad()
        reduce(loss).backward()
        optimiser.step()
    return nets


def _train_separately(sizes, seed, x, y, *, steps):
    net = _separate_mlp(sizes, seed)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def _largest_difference(nets, separate):
    layers = [layer for layer in nets if isinstance(layer, StackedLinear)]
    worst = 0.0
    for member, net in enumerate(separate):
        singles = [layer for layer in net if isinstance(layer, nn.Linear)]
        for stacked, single in zip(layers, singles, strict=True):
            worst = max(worst, (stacked.weight[member].T - single.weight).abs().max().item())
            worst = max(worst, (stacked.bias[member, 0] - single.bias).abs().max().item())
    return worst


def test_stacked_training_equals_separate_training():
    """Sum over members of member means: 40 Adam steps end where the separate nets end."""
    sizes, seeds = [6, 16, 16, 3], [3, 1, 4, 15, 9]
    x = torch.randn(5, 20, 6, generator=_rng(0))
    y = torch.randint(3, (5, 20), generator=_rng(1))
    separate = [_train_separately(sizes, seed, x[s], y[s], steps=40) for s, seed in enumerate(seeds)]

    nets = _train_stacked(sizes, seeds, x, y, steps=40, reduce=lambda loss: loss.mean(1).sum())
    assert _largest_difference(nets, separate) < 2e-4
    untrained = _train_stacked(sizes, seeds, x, y, steps=0, reduce=None)
    assert _largest_difference(untrained, separate) > 0.1

    # Planted: members that share their loss through a maximum do not train as if alone.
    mixed = _train_stacked(sizes, seeds, x, y, steps=40, reduce=lambda loss: loss.mean(1).max())
    assert _largest_difference(mixed, separate) > 1e-2


def test_a_member_is_the_same_alone_or_among_many():
    sizes = [6, 16, 3]
    x = torch.randn(8, 20, 6, generator=_rng(0))
    y = torch.randint(3, (8, 20), generator=_rng(1))
    total = lambda loss: loss.mean(1).sum()  # noqa: E731
    many = _train_stacked(sizes, range(8), x, y, steps=30, reduce=total)
    alone = _train_stacked(sizes, [5], x[5:6], y[5:6], steps=30, reduce=total)
    for one, eight in zip(alone.parameters(), many.parameters(), strict=True):
        assert torch.allclose(one[0], eight[5], atol=2e-5)
    # At the start they are equal to the last bit.
    fresh = stacked_mlp(sizes, [_rng(seed) for seed in range(8)])
    lone = stacked_mlp(sizes, [_rng(5)])
    assert all(torch.equal(a[0], b[5]) for a, b in zip(lone.parameters(), fresh.parameters(), strict=True))


def test_no_gradient_crosses_members():
    nets = stacked_mlp([4, 8, 2], [_rng(seed) for seed in range(3)])
    nets(torch.randn(3, 5, 4))[1].sum().backward()
    for parameter in nets.parameters():
        assert parameter.grad[1].abs().sum() > 0
        assert parameter.grad[[0, 2]].abs().sum() == 0


def test_stacked_mlp_layers_and_activation():
    nets = stacked_mlp([4, 8, 8, 2], [_rng(0), _rng(1)], activation=lambda: nn.LeakyReLU(0.2))
    kinds = [type(layer) for layer in nets]
    assert kinds == [StackedLinear, nn.LeakyReLU, StackedLinear, nn.LeakyReLU, StackedLinear]
    assert nets[1] is not nets[3]
    assert "count=2, inputs=4, outputs=8" in repr(nets)


def test_start_is_uniform_within_one_over_root_inputs():
    layer = StackedLinear(2, 400, 300, [_rng(0), _rng(1)])
    bound = 1 / math.sqrt(400)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StackedLinear(0, 2, 2, []), "count.*0"),
        (lambda: StackedLinear(2, 0, 2, _rng(0)), "inputs.*0"),
        (lambda: StackedLinear(2, 2, 0, _rng(0)), "outputs.*0"),
        (lambda: StackedLinear(3, 2, 2, [_rng(0), _rng(1)]), "3 members, got 2"),
        (lambda: StackedLinear(2, 2, 2, [_rng(0), 1]), "int at position 1"),
        (lambda: StackedLinear(2, 2, 2, [_rng(0)])(torch.zeros(2, 1, 2)), "2 members, got 1"),
        (lambda: StackedLinear(2, 3, 2, _rng(0))(torch.zeros(5, 3)), r"\(2, B, 3\), got \(5, 3\)"),
        (lambda: StackedLinear(2, 3, 2, _rng(0))(torch.zeros(1, 5, 3)), r"got \(1, 5, 3\)"),
        (lambda: StackedLinear(2, 3, 2, _rng(0))(torch.zeros(2, 5, 4)), r"got \(2, 5, 4\)"),
        (lambda: stacked_mlp([4], [_rng(0)]), r"two widths.*\[4\]"),
        (lambda: stacked_mlp([4, 2], []), "got 0"),
        (lambda: stacked_mlp([4, 2], _rng(0)), "single Generator"),
        (lambda: stacked_mlp([4, 0], [_rng(0)]), "outputs.*0"),
        (lambda: stacked_mlp([4, 2], [_rng(0)] * 2), "same generator twice"),
    ],
)
def test_stacked_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
