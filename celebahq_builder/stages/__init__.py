"""The data flow: region -> denoise -> upscale -> align -> score -> select -> pack.

A stage never knows where it runs; `recipe.STAGES` is the table of contents.
"""
