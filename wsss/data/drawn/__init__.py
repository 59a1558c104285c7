"""The drawn data set: shapes, their rasters, the scenes made of them."""
