"""`latent-aug app`: a finished run in a browser, to inspect images, play with actions and choose samples."""
