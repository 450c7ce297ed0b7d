# Two images from one file: `prepare` (torch, ultralytics) turns weights into a bundle, `serve` (no torch) serves it.
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH \
    YOLOFOLD_BUNDLE_DIR=/bundles
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin yolofold \
    && install -d -o yolofold -g yolofold /bundles /state
WORKDIR /app

FROM base AS serve-packages
RUN python3 -m venv /opt/venv
COPY requirements/ requirements/
RUN pip install --no-cache-dir -r requirements/serve.txt

FROM serve-packages AS prepare
# For instance https://download.pytorch.org/whl/cpu, which spares 3 GB of CUDA.
ARG TORCH_INDEX_URL=
RUN set -e; if [ -n "$TORCH_INDEX_URL" ]; then \
        grep -E '^(torch|torchvision)==' requirements/prepare.txt >/tmp/torch.txt; \
        pip install --no-cache-dir --index-url "$TORCH_INDEX_URL" -r /tmp/torch.txt; \
    fi; \
    pip install --no-cache-dir -r requirements/prepare.txt
COPY service/ service/
ENV YOLO_CONFIG_DIR=/tmp/ultralytics MPLCONFIGDIR=/tmp/matplotlib
USER 10001
CMD ["python", "-m", "service", "prepare"]

FROM serve-packages AS serve-cpu-packages
# Set to 1, it adds OpenVINO, 180 MB.
ARG OPENVINO=
RUN if [ -n "$OPENVINO" ]; then pip install --no-cache-dir -r requirements/serve-openvino.txt; fi

FROM serve-packages AS serve-gpu-packages
# The CUDA build takes the place of the CPU one: both provide the module onnxruntime.
RUN pip uninstall -y onnxruntime && pip install --no-cache-dir -r requirements/serve-gpu.txt

FROM base AS serve-base
COPY service/ service/
# The unpickled form of a model has no place where models are served.
RUN rm -rf service/prepare service/weights/*.pt
ENV YOLOFOLD_HOST=0.0.0.0 YOLOFOLD_PORT=8000
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['YOLOFOLD_PORT'] + '/readyz', timeout=4)"]
CMD ["python", "-m", "service", "serve"]

FROM serve-base AS serve-gpu
COPY --from=serve-gpu-packages /opt/venv /opt/venv

FROM serve-base AS serve
COPY --from=serve-cpu-packages /opt/venv /opt/venv
