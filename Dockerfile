# Affect Studio as a server: the page in a browser, every embedded model, no network at run time.
#
#     docker build -t affect-studio .
#     docker run --rm -p 127.0.0.1:7860:7860 -e AFFECT_PASSWORD -v affect-takes:/takes affect-studio
#
# The torch of the Python Package Index brings CUDA on x86-64, so this one image runs on a GPU with
# `--gpus all` and without one alike. For a CPU alone, some GB smaller: take PyTorch's index of CPU
# wheels into PIP_ARGS (`--build-arg PIP_ARGS="--extra-index-url ..."`).
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG PIP_ARGS=""
ARG EXTRAS="portrait,ui"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/affect
WORKDIR /src
# What is slow and changes seldom comes first: the pinned libraries without the project.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir adapters pipelines training studio assets \
    && touch adapters/__init__.py pipelines/__init__.py training/__init__.py studio/__init__.py \
    && /opt/affect/bin/pip install ${PIP_ARGS} -c constraints.txt ".[${EXTRAS}]"
COPY adapters adapters
COPY pipelines pipelines
COPY training training
COPY studio studio
COPY assets assets
RUN /opt/affect/bin/pip install --no-deps --force-reinstall . \
    && /opt/affect/bin/affect models verify

FROM python:${PYTHON}
# libgl1 and libglib: OpenCV under mediapipe. espeak-ng: `affect make voice --text`. Their versions
# are those of the Debian release, which mends them; a pinned one would be gone with the next mend.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends espeak-ng libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 affect \
    && install -d -o affect -g affect /takes
COPY --from=build /opt/affect /opt/affect
USER 10001
ENV PATH=/opt/affect/bin:$PATH HF_HUB_OFFLINE=1 AFFECT_CACHE=/takes/.cache PYTHONUNBUFFERED=1
WORKDIR /takes
VOLUME /takes
EXPOSE 7860
STOPSIGNAL SIGINT
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:7860/', timeout=4)"]
# Inside, all addresses; which of the host's is decided by `-p`. A login is asked for by the studio.
CMD ["affect", "serve", "--host", "0.0.0.0", "--port", "7860", "--out", "/takes", "--auth", "studio:env:AFFECT_PASSWORD"]
