"""The drawn data set: shapes, their rasters and the scenes made from them."""
