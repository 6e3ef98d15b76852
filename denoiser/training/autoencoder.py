"""The convolutional autoencoder family: one class, its shape given by a recipe."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiser.training.recipe import Network


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), without normalisation (EDSR; Lim et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # starts as the identity (Fixup; Zhang et al. 2019)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        change: Tensor = self.conv2(F.relu(self.conv1(x)))
        return x + change


class ConvAutoencoder(nn.Module):
    """A U-shaped denoising autoencoder of plain convolutions, conditioned on a noise map.

    Image and noise map are pixel-unshuffled together (FFDNet; Zhang et al. 2018), encoded to a code
    at 1/`stride` of the resolution, decoded with additive skips (DRUNet; Zhang et al. 2021), and
    the result is added to the noisy image (DnCNN; Zhang et al. 2017).
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        channels, factor = network.channels, network.unshuffle
        self.factor = factor
        self.stride = factor * 2 ** (len(channels) - 1)  # H and W must be multiples of it
        self.head = nn.Conv2d(4 * factor**2, channels[0], 3, padding=1)
        self.encoders = nn.ModuleList(_blocks(width, network.blocks) for width in channels)
        self.downs = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels)
        )
        self.ups = nn.ModuleList(
            nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairwise(channels)
        )
        self.decoders = nn.ModuleList(_blocks(width, network.blocks) for width in channels[:-1])
        self.tail = nn.Conv2d(channels[0], 3 * factor**2, 3, padding=1)

    def encode(self, image: Tensor, sigma: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map image (N, 3, H, W) and sigma (N, 1, H, W) to the code and the skips, finest first."""
        x = self.head(F.pixel_unshuffle(torch.cat([image, sigma], 1), self.factor))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=False):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        return self.encoders[-1](x), skips  # code: (N, C, H / stride, W / stride)

    def decode(self, code: Tensor, skips: list[Tensor]) -> Tensor:
        """Map the code and the skips to what must be added to the image, (N, 3, H, W)."""
        x = code
        for up, decoder, skip in zip(
            reversed(self.ups), reversed(self.decoders), reversed(skips), strict=True
        ):
            x = decoder(F.pixel_shuffle(up(x), 2) + skip)
        return F.pixel_shuffle(self.tail(x), self.factor)

    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        """Restore.

        Args:
            image: (N, 3, H, W) in [0, 1], unclipped noise allowed; H and W multiples of `stride`.
            sigma: (N, 1, H, W) noise standard deviation, in units of the image.

        Returns:
            (N, 3, H, W) float32, not clipped.
        """
        return image + self.decode(*self.encode(image, sigma)).float()


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(count)))
