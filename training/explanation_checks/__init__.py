"""Does an explanation depend on what the model has learned, and does it point at what is there?"""
