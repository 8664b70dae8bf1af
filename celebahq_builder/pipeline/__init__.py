"""The build: crop, denoise, upscale, align, score, select, pack."""
