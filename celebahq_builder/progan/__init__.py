"""Training of ProGAN on a multi-resolution HDF5 file, and what is made with its generator."""
