"""What a training step sees, and what it should answer: crops with noise, holes or defects."""

from collections.abc import Callable

import torch
from torch import Tensor

from denoiser.training import neighbor2neighbor
from denoiser.training.autoencoder import split
from denoiser.training.corruption import corrupt
from denoiser.training.dataset import Crops
from denoiser.training.holes import GUESS, cut_out, draw_holes, first_guess
from denoiser.training.recipe import Recipe
from denoiser.training.step import power

Apply = Callable[..., Tensor]
"""Runs a network on an image and, where it takes one, a noise map or hole; without gradients."""


class Examples:
    """Makes the examples of a step on the training device."""

    def __init__(
        self, recipe: Recipe, generator: torch.Generator, present: Apply, averaged: Apply
    ) -> None:
        """Prepare.

        Args:
            recipe: What to make.
            generator: Source of randomness, on the training device.
            present: Runs the network that learns.
            averaged: Runs the one with averaged weights.
        """
        self.recipe, self.generator = recipe, generator
        self.present, self.averaged = present, averaged

    def draw(self, crops: Crops, share: slice = slice(None)) -> list[Tensor]:
        """Make what the objective takes of a process's share of a batch."""
        training, network = self.recipe.training, self.recipe.network
        batch = crops.sample(training.batch, self.generator)
        clean, noisy, sigma = (
            split(image, network.phases)
            for image in corrupt(batch, self.recipe.corruption, self.generator)
        )
        if network.hole:
            noisy, sigma = self._cut_out(noisy)
        if network.estimator:
            sigma = power(noisy - clean).sqrt().expand_as(sigma)
            told = self._chance(len(sigma)) < training.told
            sigma = torch.where(told, sigma, -torch.ones_like(sigma))
        if training.supervision == "clean":
            examples = [noisy[share], sigma[share], clean[share]]
        else:
            examples = self._pairs(noisy, sigma, share)
        return [example.contiguous(memory_format=torch.channels_last) for example in examples]

    def _chance(self, count: int) -> Tensor:
        """Uniform in [0, 1), one number per crop, (N, 1, 1, 1)."""
        chance = torch.rand(count, device=self.generator.device, generator=self.generator)
        return chance[:, None, None, None]

    def _cut_out(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Cut a hole out of every crop; some hold what the averaged network guesses."""
        options = self.recipe.holes
        hole = draw_holes(image, options, self.generator)
        damaged = cut_out(image, hole)
        if not options.guessed:
            return damaged, hole
        guessed = self._chance(len(hole)) < options.guessed
        guess = first_guess(image, hole, self.averaged)
        damaged = torch.where(guessed, cut_out(image, hole, guess), damaged)
        return damaged, torch.where(guessed, GUESS * hole, hole)

    def _pairs(self, noisy: Tensor, sigma: Tensor, share: slice) -> list[Tensor]:
        """Make pairs of pixels of noisy crops, and how far apart they are expected to lie."""
        first, second = neighbor2neighbor.draw_pairs(noisy, self.generator)[:, share]
        noisy = noisy[share].contiguous(memory_format=torch.channels_last)
        examples = [
            neighbor2neighbor.subsample(image, choice)
            for image, choice in ((noisy, first), (sigma[share], first), (noisy, second))
        ]
        whole = self.present(noisy)
        offset = neighbor2neighbor.subsample(whole, first)
        return [*examples, offset - neighbor2neighbor.subsample(whole, second)]
