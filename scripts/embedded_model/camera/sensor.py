"""What sensor and processing do: tone, noise, smoothing, sharpening, bands. Pictures are BGR uint8 HxWx3."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures.fields import Bgr, Field, Rng, noise_field
from scripts.embedded_model.textures.paint import add_field


def exposure(rng: Rng, image: Bgr) -> Bgr:
    """Gain, offset, gamma and white balance as one lookup table; low light is common."""
    ramp = np.linspace(0, 1, 256)
    gain = rng.uniform(0.2, 0.6) if rng.random() < 0.08 else rng.uniform(0.65, 1.35)
    haze = rng.uniform(0, 0.25) if rng.random() < 0.3 else 0.0
    gamma = np.exp(rng.normal(0, 0.25))
    cast = np.exp(rng.normal(0, 0.08, 3))
    curve = [np.clip((haze + (1 - haze) * ramp**gamma) * gain * c, 0, 1) * 255 for c in cast]
    table = np.stack(curve, axis=-1).astype(np.uint8).reshape(1, 256, 3)
    return cv2.LUT(image, table)


def metered(rng: Rng, image: Bgr) -> Bgr:
    """Automatic exposure: brightened or dimmed towards a middle grey, by at most a factor of three."""
    wanted = rng.uniform(85, 165)
    gain = float(np.clip(wanted / (cv2.mean(image[::8, ::8])[1] + 1), 0.5, 3.0))
    return cv2.convertScaleAbs(image, alpha=gain)


def sensor_noise(rng: Rng, image: Bgr, mean: float = 5.4) -> Bgr:
    """Grey and colour noise of `mean` grey levels on average, sometimes strong and blotchy."""
    height, width = image.shape[:2]
    sigma = float(rng.gamma(1.2, mean / 1.2))
    grain: Field = noise_field(rng, height, width) * sigma
    if rng.random() < 0.3:
        grain = cv2.blur(grain, (2, 2)) * 1.6
    tint = noise_field(rng, height, width) * sigma * 0.4
    return cv2.add(image, cv2.merge([grain + tint, grain, grain - tint]), dtype=cv2.CV_8U)


def dark_scene(rng: Rng, image: Bgr) -> Bgr:
    """Low light: little signal, much noise, then brightened again as far as the phone dares."""
    height, width = image.shape[:2]
    dim = cv2.convertScaleAbs(image, alpha=rng.uniform(0.08, 0.35), beta=rng.uniform(2, 14))
    sigma = rng.uniform(1, 6)
    channels = [noise_field(rng, height, width) * np.float32(sigma) for _ in range(3)]
    noisy = cv2.add(dim, cv2.merge(channels), dtype=cv2.CV_8U)
    if rng.random() < 0.6:
        noisy = cv2.medianBlur(noisy, 3)
    return cv2.convertScaleAbs(noisy, alpha=rng.uniform(1.0, 3.5))


def bands(rng: Rng, image: Bgr) -> Bgr:
    """Brightness bands of a rolling shutter under pulsing lamps."""
    height, width = image.shape[:2]
    across = np.linspace(0, rng.uniform(4, 60), height, dtype=np.float32) + np.float32(rng.uniform(0, 6))
    return add_field(image, np.repeat(np.sin(across)[:, None], width, 1), rng.uniform(4, 30))


def processed(rng: Rng, image: Bgr) -> Bgr:
    """What phones do to hide noise and look crisp: smear fine detail, then sharpen edges until they have halos."""
    if rng.random() < 0.4:
        image = cv2.medianBlur(image, 3) if rng.random() < 0.5 else cv2.GaussianBlur(image, (0, 0), 0.7)
    if rng.random() < 0.6:
        soft = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.7, 2.5)))
        amount = rng.uniform(0.3, 2.0)
        image = cv2.addWeighted(image, 1 + amount, soft, -amount, 0)
    return image


def faded_colors(rng: Rng, image: Bgr) -> Bgr:
    """More or less colour than there was, down to none."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    share = 0.0 if rng.random() < 0.5 else rng.uniform(0.2, 1.4)
    return cv2.addWeighted(image, share, gray, 1 - share, 0)


def two_tone(rng: Rng, image: Bgr) -> Bgr:
    """Fax or old scanner: black and white by a local threshold."""
    gray = cv2.medianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), 3)
    reach = max(image.shape[:2]) // int(rng.integers(6, 20)) // 2 * 2 + 3
    hard = cv2.adaptiveThreshold(gray, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, reach, rng.uniform(4, 18))
    return cv2.cvtColor(hard, cv2.COLOR_GRAY2BGR)
