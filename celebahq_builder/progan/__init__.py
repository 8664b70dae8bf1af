"""ProGAN: training, generated images, evaluation of runs."""
