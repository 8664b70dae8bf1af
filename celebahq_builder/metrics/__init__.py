"""Image quality and diversity metrics: pure arithmetic on images or features, without files."""
