"""`latent-aug export`: what a run has made, in the forms that others read."""
