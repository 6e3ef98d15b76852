"""The convolutional autoencoder family: one class, its shape given by a recipe."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiser import noise
from denoiser.training.filters import push_pull
from denoiser.training.recipe import ESTIMATOR_STRIDE, Network

RARE = -4.0
"""Logit of a defect that a network starts with, where it knows nothing yet."""
ACTIVATIONS = {"linear": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), without normalisation (EDSR; Lim et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # starts near the identity (Fixup; Zhang et al. 2019)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        change: Tensor = self.conv2(F.relu(self.conv1(x)))
        return x + change


class Sight(nn.Conv2d):
    """A 3x3 convolution of the pixel-unshuffled picture, exact where others are in bf16."""

    def __init__(self, channels: int, width: int, factor: int) -> None:
        super().__init__(channels * factor**2, width, 3, padding=1)
        self.channels, self.factor = channels, factor

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, H / factor, W / factor), of the weights' type."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight.dtype)
            if not torch.onnx.is_in_onnx_export():
                return super().forward(F.pixel_unshuffle(x, self.factor))
            # the same by larger steps, for onnxruntime is slow at moving pixels about
            step, side = self.factor, 3 * self.factor
            kernel = self.weight.reshape(-1, self.channels, step, step, 3, 3)
            kernel = kernel.permute(0, 1, 4, 2, 5, 3).reshape(-1, self.channels, side, side)
            return F.conv2d(x, kernel, self.bias, stride=step, padding=step)


class Up(nn.Conv2d):
    """A 1x1 convolution whose result is pixel-shuffled to twice the resolution."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__(coarse, 4 * fine, 1)
        self.fine = fine

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, K, 2 H, 2 W)."""
        if not torch.onnx.is_in_onnx_export():
            return F.pixel_shuffle(super().forward(x), 2)
        # the same as a transposed convolution, see `Sight`; a channel of ones carries the bias,
        # which is another for each of the four pixels
        assert self.bias is not None
        kernel = torch.cat([self.weight.flatten(1).T, self.bias[None]])
        kernel = kernel.reshape(-1, self.fine, 2, 2)
        return F.conv_transpose2d(torch.cat([x, torch.ones_like(x[:, :1])], 1), kernel, stride=2)


class Context(nn.Module):
    """x + what is seen at half the resolution, and there again, so many levels deep."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 2, stride=2)
        self.block = ResidualBlock(channels)
        self.coarser = Context(channels, levels - 1) if levels > 1 else nn.Identity()
        self.up = Up(channels, channels)
        for parameter in self.up.parameters():  # starts as the identity
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), H and W multiples of 2^levels."""
        finer: Tensor = self.up(self.coarser(self.block(self.down(x))))
        return x + finer


class NoiseEstimator(nn.Module):
    """Estimates how noisy each place is, as in CBDNet (Guo et al. 2019), at 1/8 resolution.

    What is fine enough may be noise or texture; levels that see farther tell them apart.
    """

    def __init__(self, width: int, levels: int = 0) -> None:
        super().__init__()
        fine, middle, coarse = width, 2 * width, 4 * width
        convolutions = [
            Sight(3, fine, 2),
            nn.Conv2d(fine, fine, 3, padding=1),
            nn.Conv2d(fine, middle, 2, stride=2),
            nn.Conv2d(middle, middle, 3, padding=1),
            nn.Conv2d(middle, coarse, 2, stride=2),
            nn.Conv2d(coarse, coarse, 3, padding=1),
            nn.Conv2d(coarse, coarse, 3, padding=1),
            nn.Conv2d(coarse, 1, 3, padding=1),
        ]
        layers: list[nn.Module] = []
        for convolution in convolutions:  # torch's own start lets noise fade from layer to layer
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.context = Context(coarse, levels) if levels else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """Map image (N, 3, H, W) to noise levels (N, 1, H / 8, W / 8) in its units, above 0."""
        features = self.context(self.layers[:-1](image))
        return F.softplus(self.layers[-1](features).float()) / 10


class ConvAutoencoder(nn.Module):
    """An autoencoder of plain convolutions.

    The image, with a noise map if the network takes one, is pixel-unshuffled (FFDNet; Zhang et al.
    2018) and encoded to a code at 1/`stride` of the resolution. With skips, the released
    restorers' shape, the decoder gets every level of the encoder by additive skips (DRUNet; Zhang
    et al. 2021) and its result is added to the image (DnCNN; Zhang et al. 2017). Without skips the
    code is all that the decoder has. A network that fills holes gets the hole instead of the noise
    map, and adds its result to a smooth interpolation. One that finds defects adds its result to
    nothing: it is the logit of where they are.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        channels, factor, width = network.channels, network.unshuffle, network.channels[-1]
        self.factor, self.phases, self.stride = factor, network.phases, network.stride
        self.skips, self.hole, self.guided = network.skips, network.hole, network.guided
        self.detects, self.fade = network.detects, network.fade / 255
        self.estimator = None
        if network.estimator:
            self.estimator = NoiseEstimator(network.estimator, network.estimator_levels)
        self.head = Sight(3 + network.guided, channels[0], factor)
        self.encoders = nn.ModuleList(_blocks(width, network.blocks) for width in channels)
        self.downs = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels)
        )
        self.to_code: nn.Module = nn.Identity()
        self.from_code: nn.Module = nn.Identity()
        if network.code_channels:
            self.to_code = to_code = nn.Conv2d(width, network.code_channels, 1)
            self.from_code = nn.Conv2d(network.code_channels, width, 1)
            if network.code_activation == "sigmoid":  # it flattens (Glorot and Bengio 2010)
                to_code.weight.data.mul_(4)
        self.activation = ACTIVATIONS[network.code_activation]()
        self.ups = nn.ModuleList(Up(coarse, fine) for fine, coarse in pairwise(channels))
        self.decoders = nn.ModuleList(_blocks(width, network.blocks) for width in channels[:-1])
        self.tail = nn.Conv2d(channels[0], 3 * factor**2, 3, padding=1)
        if network.hole:  # starts with the smooth interpolation
            for parameter in self.tail.parameters():
                nn.init.zeros_(parameter)
        if network.detects:  # starts with "hardly anywhere" (Lin et al. 2017)
            assert self.tail.bias is not None
            nn.init.constant_(self.tail.bias, RARE)

    def noise_level(
        self, image: Tensor, sigma: Tensor | None, *, pooled: bool = False
    ) -> tuple[Tensor | None, Tensor]:
        """Find the noise map to restore with.

        Args:
            image: (N, 3, H, W).
            sigma: (N, 1, H, W) noise level; -k stands for k times what the estimator finds.
            pooled: Whether that is averaged over places of like brightness, see `pool`.

        Returns:
            (N, 1, H, W) without negative values, and the estimate, (N, 1, H / 8, W / 8); without
            an estimator `sigma` as it is, and nothing (N, 1, 0, 0).
        """
        if self.estimator is None or sigma is None:
            return sigma, image[:, :1, :0, :0]
        estimate: Tensor = self.estimator(image)
        level = pool(estimate, image) if pooled else estimate
        smooth = F.interpolate(
            level, scale_factor=ESTIMATOR_STRIDE, mode="bilinear", align_corners=False
        )
        return torch.where(sigma < 0, -sigma * smooth, sigma), estimate

    def encode(self, image: Tensor, guide: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Map image (N, 3, H, W) and guide (N, 1, H, W) to the code and the skips, finest first."""
        if self.guided:
            assert guide is not None
            image = torch.cat([image, guide], 1)
        x = self.head(image)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=False):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.to_code(self.encoders[-1](x))
        return self.activation(x), skips  # code: (N, C, H / stride, W / stride)

    def decode(self, code: Tensor, skips: list[Tensor]) -> Tensor:
        """Map the code and the skips to (N, 3, H, W): a change of the image, or all of it."""
        x = self.from_code(code)
        for up, decoder, skip in zip(
            reversed(self.ups), reversed(self.decoders), reversed(skips), strict=True
        ):
            x = up(x)
            x = decoder(x + skip if self.skips else x)
        return F.pixel_shuffle(self.tail(x), self.factor)

    def reconstruct(self, image: Tensor, guide: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Restore, as `forward` does for one phase; also give the code. Of defects the logits."""
        base = image
        if self.hole and guide is not None:
            base = push_pull(image, (guide < 1).float(), self.stride)
        code, skips = self.encode(base, guide)
        restored = self.decode(code, skips).float()
        if self.estimator is not None and guide is not None:
            restored = restored * (guide / self.fade).clamp(max=1)  # no noise, no change
        if self.skips and not self.detects:
            restored = base + restored
        if self.hole and guide is not None:
            restored = torch.where(guide > 0, restored, image)
        return restored, code

    def forward(self, image: Tensor, guide: Tensor | None = None) -> Tensor:
        """Restore.

        Args:
            image: (N, 3, H, W) in [0, 1], unclipped noise allowed; H and W multiples of `stride`.
            guide: (N, 1, H, W); for a network that takes a noise map the standard deviation in
                units of the image, with an estimator -k asks for k times its estimate. For one that
                fills holes 1 in the hole, between 0 and 1 where `image` holds a first guess.

        Returns:
            (N, 3, H, W) float32, not clipped. Of a network that finds defects how likely scratches,
            dust or either of them cover a pixel, 0-1.
        """
        return self.restore(image, guide)[0]

    def restore(
        self, image: Tensor, guide: Tensor | None = None, *, pooled: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Restore, and also give the estimated noise map, see `forward` and `noise_level`."""
        guide, estimate = self.noise_level(image, guide, pooled=pooled)
        if self.phases == 1:
            restored, _ = self.reconstruct(image, guide)
            return torch.sigmoid(restored) if self.detects else restored, estimate
        guide = None if guide is None else split(guide, self.phases)
        return join(self.reconstruct(split(image, self.phases), guide)[0], self.phases), estimate


def pool(levels: Tensor, image: Tensor) -> Tensor:
    """Average noise levels over places of like brightness, for training.

    `noise.pool`, which the engine uses, does so over the whole picture in squares of the model's
    stride and between a few shades; this, over a crop and between all its places.

    Args:
        levels: (N, 1, H / 8, W / 8).
        image: (N, 3, H, W).

    Returns:
        (N, 1, H / 8, W / 8).
    """
    grey = F.avg_pool2d(image.detach().mean(1, keepdim=True), ESTIMATOR_STRIDE).flatten(2)
    tells = (grey > noise.CLIPPED) & (grey < 1 - noise.CLIPPED)  # (N, 1, places)
    tells = tells | ~tells.any(2, keepdim=True)
    nearness = torch.exp(-(((grey.mT - grey) / noise.LIKE) ** 2) / 2) + 1e-4  # (N, places, places)
    weights = nearness * tells / (levels.detach().flatten(2) + noise.CALMEST)
    common = (weights * levels.flatten(2)).sum(2) / weights.sum(2)
    near = common.reshape(levels.shape)
    return torch.minimum(torch.maximum(near, levels / noise.APART), levels * noise.APART)


def split(batch: Tensor, phases: int) -> Tensor:
    """Take a batch apart into interleaved sub-pictures (Zhou et al. 2020).

    Args:
        batch: (N, C, H, W).
        phases: Every so many-th row and column make a sub-picture.

    Returns:
        (N phases^2, C, H / phases, W / phases).
    """
    count, channels, height, width = batch.shape
    cells = F.pixel_unshuffle(batch, phases).reshape(
        count, channels, phases**2, height // phases, width // phases
    )
    return cells.transpose(1, 2).flatten(0, 1)


def join(batch: Tensor, phases: int) -> Tensor:
    """Undo `split`."""
    total, channels, height, width = batch.shape
    cells = batch.reshape(total // phases**2, phases**2, channels, height, width)
    return F.pixel_shuffle(cells.transpose(1, 2).flatten(1, 2), phases)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))
