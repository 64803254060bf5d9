"""PhysioNet releases, downloaded: exactly what a training needs, checked against the release's own list."""
