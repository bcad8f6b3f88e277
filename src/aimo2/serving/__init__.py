"""Where models live and what serves them: the model store and the local inference server."""
