"""What an engine that wraps another one says of itself: the same as the other."""

from service.inference.engine import InferenceEngine, Precision


class EngineAround:
    """Stands in front of ``engine``; how pictures get to it is for the class that inherits to say."""

    def __init__(self, engine: InferenceEngine) -> None:
        """Wrap ``engine``."""
        self._engine = engine

    @property
    def provider(self) -> str:
        """See ``InferenceEngine.provider``."""
        return self._engine.provider

    @property
    def runtime(self) -> str:
        """See ``InferenceEngine.runtime``."""
        return self._engine.runtime

    @property
    def precision(self) -> Precision:
        """See ``InferenceEngine.precision``."""
        return self._engine.precision

    @property
    def threads(self) -> int:
        """See ``InferenceEngine.threads``."""
        return self._engine.threads

    @property
    def runs_apart(self) -> bool:
        """See ``InferenceEngine.runs_apart``."""
        return self._engine.runs_apart

    def release_memory(self) -> None:
        """See ``InferenceEngine.release_memory``."""
        self._engine.release_memory()
