"""The encoder against plain `torch.nn` convolutions, one network for each seed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offrl.errors import RecipeError
from offrl.nn import seed_generators
from offrl.nn.conv import LARGE, SMALL, PlainConvolutions
from offrl.nn.encoder import Encoder
from offrl.nn.images import channels_and_sides, is_image

LAYERS = ((4, 3, 1), (6, 2, 2))
"""The second needs an even number of rows and columns, or its strides would leave some out."""


def image_space(*shape: int) -> gym.spaces.Box:
    return gym.spaces.Box(0, 255, shape, np.uint8)


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def encoder(space: gym.Space[Any], seeds: list[int], convolutions: Any = LAYERS, activation: str = "relu") -> Encoder:
    return Encoder(space, convolutions, activation, seed_generators(seeds))


class Even(nn.Module):
    """Puts a row or column of zeros behind an odd number of them."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))


def plain(network: PlainConvolutions, seed: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """One seed's layers as `nn.Conv2d`."""
    modules: list[nn.Module] = []
    for weight, bias, stride in zip(network.weights, network.biases, network.strides, strict=True):
        if stride == 2:
            modules.append(Even())
        outputs, inputs, kernel, _ = weight[seed].shape
        layer = nn.Conv2d(inputs, outputs, kernel, stride)
        with torch.no_grad():
            layer.weight.copy_(weight[seed])
            assert layer.bias is not None
            layer.bias.copy_(bias[seed])
        modules += [layer, activation()]
    return nn.Sequential(*modules, nn.Flatten())


def first_image(made: Encoder) -> PlainConvolutions:
    network = made.images[0]
    assert isinstance(network, PlainConvolutions)
    return network


@pytest.mark.parametrize(("activation", "module"), [("relu", nn.ReLU), ("tanh", nn.Tanh)])
def test_each_seed_is_a_plain_network(activation: str, module: type[nn.Module]) -> None:
    made = encoder(image_space(9, 8, 3), [0, 1], activation=activation)
    x = images(2, 5, 9, 8, 3)
    output = made(x)
    # 9 × 8 pixels become 7 × 6, then 4 × 3, of 6 channels.
    assert output.shape == (2, 5, made.width) == (2, 5, 72)
    for seed in range(2):
        channels_first = x[seed].permute(0, 3, 1, 2) / 255.0
        torch.testing.assert_close(output[seed], plain(first_image(made), seed, module)(channels_first))


def test_gradients_are_those_of_the_plain_networks() -> None:
    made = encoder(image_space(9, 8, 3), [0, 1])
    x = images(2, 5, 9, 8, 3)
    made(x).square().mean(dim=(1, 2)).sum().backward()
    network = first_image(made)
    for seed in range(2):
        reference = plain(network, seed)
        reference(x[seed].permute(0, 3, 1, 2) / 255.0).square().mean().backward()
        layers = [layer for layer in reference if isinstance(layer, nn.Conv2d)]
        for weight, bias, layer in zip(network.weights, network.biases, layers, strict=True):
            assert weight.grad is not None
            assert bias.grad is not None
            assert layer.bias is not None
            torch.testing.assert_close(weight.grad[seed], layer.weight.grad)
            torch.testing.assert_close(bias.grad[seed], layer.bias.grad)


@pytest.mark.parametrize(
    ("shape", "meaning"),
    [
        ((9, 8), (1, 9, 8)),
        ((9, 8, 3), (3, 9, 8)),
        ((3, 9, 8), (3, 9, 8)),
        ((8, 9, 8), (8, 8, 9)),
        ((4, 9, 8, 3), (12, 9, 8)),
        ((4, 3, 9, 8), (12, 9, 8)),
        ((4, 9, 8, 1), (4, 9, 8)),
    ],
)
def test_axes_are_told_apart_by_their_sizes(shape: tuple[int, ...], meaning: tuple[int, int, int]) -> None:
    assert channels_and_sides(shape) == meaning


def test_stacked_frames_are_channels_in_order() -> None:
    stacked = encoder(image_space(2, 9, 8, 3), [0])
    frames = images(1, 5, 2, 9, 8, 3)
    joined = torch.cat([frames[:, :, 0], frames[:, :, 1]], dim=-1)
    torch.testing.assert_close(stacked(frames), encoder(image_space(9, 8, 6), [0])(joined))
    gray = images(1, 5, 4, 9, 8)
    moved = encoder(image_space(9, 8, 4), [0])(gray.movedim(2, -1))
    torch.testing.assert_close(encoder(image_space(4, 9, 8), [0])(gray), moved)


def test_images_and_the_rest_of_a_nested_space_are_joined() -> None:
    space = gym.spaces.Dict(
        {
            "arm": gym.spaces.Dict({"camera": image_space(9, 8, 3), "joints": gym.spaces.Box(-1.0, 1.0, (2,))}),
            "mode": gym.spaces.Discrete(3),
            "buttons": image_space(4),
            "top": image_space(7, 7),
        }
    )
    made = encoder(space, [0, 1])
    observation = {
        "arm.camera": images(2, 5, 9, 8, 3),
        "arm.joints": torch.randn(2, 5, 2),
        "mode": torch.tensor([[0, 1, 2, 0, 1]] * 2),
        "buttons": images(2, 5, 4),
        "top": images(2, 5, 7, 7),
    }
    output = made(observation)
    assert output.shape == (2, 5, made.width) == (2, 5, 72 + 54 + 2 + 3 + 4)
    networks = dict(zip(made.image_keys, made.images, strict=True))
    assert networks.keys() == {"arm.camera", "top"}
    expected = {
        "arm.camera": plain(networks["arm.camera"], 1)(observation["arm.camera"][1].permute(0, 3, 1, 2) / 255.0),
        "top": plain(networks["top"], 1)(observation["top"][1].unsqueeze(1) / 255.0),
        "arm.joints": observation["arm.joints"][1],
        "buttons": observation["buttons"][1] / 255.0,
        "mode": nn.functional.one_hot(observation["mode"][1], 3).float(),
    }
    images_first = [*made.image_keys, *(key for key in ("arm.joints", "buttons", "mode"))]
    torch.testing.assert_close(output[1], torch.cat([expected[key] for key in images_first], dim=-1))


def test_what_is_no_image_is_flattened() -> None:
    for space in (gym.spaces.Box(0.0, 1.0, (9, 8, 3), np.float32), image_space(20), image_space(4, 9, 9, 9, 3)):
        assert not is_image(space)
    assert not is_image(image_space(4, 4, 3))
    assert is_image(image_space(5, 5))
    flat = encoder(gym.spaces.Box(0.0, 1.0, (3, 2), np.float32), [0], "auto")
    x = torch.rand(1, 4, 3, 2)
    assert torch.equal(flat(x), x.flatten(2))
    unconvolved = encoder(image_space(9, 8, 3), [0], ())
    x = images(1, 4, 9, 8, 3)
    torch.testing.assert_close(unconvolved(x), x.flatten(2) / 255.0)
    assert list(unconvolved.parameters()) == []


@pytest.mark.parametrize(
    ("shape", "layers", "width"),
    [((84, 84, 4), LARGE, 3136), ((36, 36, 1), LARGE, 64), ((35, 60, 1), SMALL, 32 * 16 * 29), ((5, 5), SMALL, 32)],
)
def test_layers_are_chosen_by_the_size(shape: tuple[int, ...], layers: Any, width: int) -> None:
    network = PlainConvolutions(shape, "auto", torch.relu, seed_generators([0]))
    layers_made = zip(network.weights, network.strides, strict=True)
    assert [(weight.shape[1], weight.shape[-1], stride) for weight, stride in layers_made] == list(layers)
    assert network.width == width


@pytest.mark.parametrize("side", range(5, 12))
@pytest.mark.parametrize("layers", [SMALL, ((2, 4, 3), (2, 2, 2))])
def test_every_pixel_is_seen(side: int, layers: Any) -> None:
    network = PlainConvolutions((side, side), layers, torch.tanh, seed_generators([0]))
    image = torch.full((1, 1, side, side), 9.0, requires_grad=True)
    network(image).sum().backward()
    assert image.grad is not None
    assert (image.grad != 0.0).all()


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"(?s)\[\[8, 8, 4\], .*\(12, 12, 3\): one of 4 × 4 .* upon 2 × 2.*smaller"):
        encoder(image_space(12, 12, 3), [0], ((8, 8, 4), (8, 4, 2)))
    with pytest.raises(RecipeError, match="no image"):
        encoder(gym.spaces.Box(0.0, 1.0, (9, 8, 3), np.float32), [0])


def test_initial_weights_of_a_seed_depend_on_nothing_but_the_seed() -> None:
    together = encoder(image_space(9, 8, 3), [5, 9, 1])
    for position, seed in enumerate([5, 9, 1]):
        alone = encoder(image_space(9, 8, 3), [seed])
        for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
            assert torch.equal(ours[position], theirs[0])


def test_initial_weights_are_spread_as_those_of_torch_convolutions() -> None:
    network = PlainConvolutions((60, 60, 50), ((64, 4, 1),), torch.relu, seed_generators([0]))
    reference = nn.Conv2d(50, 64, 4)
    assert reference.bias is not None
    for ours, theirs in ((network.weights[0], reference.weight), (network.biases[0], reference.bias)):
        assert ours.abs().max() <= 800**-0.5
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.3)


class Block(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.other = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.other(torch.relu(self.one(torch.relu(x))))
        return x + inner


def residual(channels: int) -> nn.Sequential:
    """The residual network of IMPALA as its figure draws it."""
    stages: list[nn.Module] = []
    for inputs, outputs in ((channels, 16), (16, 32), (32, 32)):
        stages += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
        stages += [Block(outputs), Block(outputs)]
    return nn.Sequential(*stages, nn.ReLU(), nn.Flatten())


@pytest.mark.parametrize(("shape", "width"), [((9, 8, 3), 32 * 2 * 1), ((84, 84, 4), 32 * 11 * 11), ((5, 5), 32)])
def test_the_residual_network_is_impala_s(shape: tuple[int, ...], width: int) -> None:
    made = encoder(image_space(*shape), [0, 1], "impala")
    x = images(2, 2, *shape)
    output = made(x)
    assert output.shape == (2, 2, width) == (2, 2, made.width)
    output.square().mean(dim=(1, 2)).sum().backward()
    for seed in range(2):
        plain_image = (x[seed].unsqueeze(-1) if len(shape) == 2 else x[seed]).permute(0, 3, 1, 2) / 255.0
        reference = residual(plain_image.shape[1])
        ours = [part for pair in zip(made.images[0].weights, made.images[0].biases, strict=True) for part in pair]
        assert len(ours) == len(list(reference.parameters())) == 30
        with torch.no_grad():
            for parameter, own in zip(reference.parameters(), ours, strict=True):
                parameter.copy_(own[seed])
        expected = reference(plain_image)
        torch.testing.assert_close(output[seed], expected)
        expected.square().mean().backward()
        for parameter, own in zip(reference.parameters(), ours, strict=True):
            assert own.grad is not None
            torch.testing.assert_close(own.grad[seed], parameter.grad, rtol=1e-4, atol=1e-6)
