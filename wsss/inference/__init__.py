"""Final protocols: prediction at several scales, CRF, files of predictions, submission."""
