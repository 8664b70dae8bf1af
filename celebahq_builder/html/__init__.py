"""HTML pages: one template environment, charts, thumbnails."""
