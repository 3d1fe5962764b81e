# masklet as a service: docker build --tag masklet . && docker run --publish 127.0.0.1:8000:8000 --env MASKLET_TOKEN=... masklet
# Built in two steps, so that nothing of the build stays; run as a user without rights, on a root that may be read-only.

FROM python:3.12-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/masklet
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src ./src
# The processor build of torch; for NVIDIA: --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/masklet/bin/pip install --no-cache-dir --constraint constraints.txt --index-url "$TORCH_INDEX" torch \
 && /opt/masklet/bin/pip install --no-cache-dir --constraint constraints.txt '.[server]'

FROM python:3.12-slim-bookworm
# bubblewrap locks the decoding of strangers' files in; where the host forbids it, /health says so. Its version is not
# pinned, because Debian keeps only the newest, and that is the one without known holes.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bubblewrap \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --create-home --home-dir /home/masklet masklet \
 && mkdir /data \
 && chown masklet /data
COPY --from=build /opt/masklet /opt/masklet
ENV PATH=/opt/masklet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MASKLET_HOST=0.0.0.0 \
    MASKLET_PORT=8000 \
    MASKLET_DATA_DIR=/data
USER 10001
WORKDIR /home/masklet
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# Without a token it refuses to start, because it listens beyond this machine.
ENTRYPOINT ["masklet"]
CMD ["serve"]
