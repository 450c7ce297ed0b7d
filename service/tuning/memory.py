"""The choice on disk, beside the bundle or in ``YOLOFOLD_STATE_DIR``: a file for each bundle and machine."""

from pathlib import Path

from pydantic import ValidationError

from service.bundle.store import Bundle, replace_file
from service.settings import Settings
from service.tuning.candidates import allowed
from service.tuning.fingerprint import differences, machine_digest
from service.tuning.records import EngineChoice, Fingerprint

#: A choice takes a few KB.
_MOST_BYTES = 1_000_000


class ChoiceMemory:
    """Where the choice of one bundle on one machine is kept. Never raises: a choice can always be made again."""

    def __init__(self, bundle: Bundle, settings: Settings, present: Fingerprint) -> None:
        """Look for a choice that was made under ``present``."""
        folder = bundle.path.resolve()
        self._settings, self._present = settings, present
        self.path: Path = (settings.state_dir or folder.parent) / f"{folder.name}.engine-{machine_digest(present)}.json"

    def recall(self) -> tuple[EngineChoice | None, str | None]:
        """The kept choice if it still holds; otherwise None, and the reason where a file is there that does not.

        How busy the machine was is not looked at here, since what follows from it depends on how busy it is now.
        """
        try:
            if self.path.stat().st_size > _MOST_BYTES:
                return None, "it is far too large"
            choice = EngineChoice.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, f"it cannot be read: {error.strerror}"
        except ValidationError as error:
            first = error.errors()[0]
            return None, f"it is damaged: {'.'.join(map(str, first['loc'])) or 'the document'}: {first['msg']}"
        if changes := differences(choice.fingerprint, self._present):
            return None, f"it was made otherwise: {'; '.join(changes)}"
        chosen = [result for result in choice.candidates if result.verdict == "chosen"]
        if len(chosen) != 1 or not chosen[0].measured or not allowed(chosen[0].candidate, self._settings):
            return None, "it names no engine that these settings allow"
        return choice, None

    def keep(self, choice: EngineChoice) -> str | None:
        """Write the file under a temporary name and rename it; the reason if that is not possible."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, (choice.model_dump_json(indent=1) + "\n").encode())
        except OSError as error:
            return error.strerror or str(error)
        return None
