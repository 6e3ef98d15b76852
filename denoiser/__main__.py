"""`python -m denoiser` is the command `denoiser`."""

from denoiser.cli import denoiser_main

denoiser_main()
