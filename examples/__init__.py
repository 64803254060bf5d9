"""Programs that show what a trained model can be used for."""
