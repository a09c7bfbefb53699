"""`latent-aug predict`: verdicts on files, as tables and pictures."""
