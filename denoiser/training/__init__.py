"""Training of the convolutional autoencoder family: the only importer of torch."""
