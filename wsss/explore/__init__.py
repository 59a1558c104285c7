"""The CAM explorer: what a model sees in an image, as a page that needs no kernel, or live in a notebook."""
