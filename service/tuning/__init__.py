"""``YOLOFOLD_ENGINE=auto``: measures the engines that could serve here, and remembers which one does."""
